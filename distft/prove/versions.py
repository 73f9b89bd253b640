"""The versions a proof ran with, held against what distft asks for."""

import importlib.metadata
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import distft
from distft.prove.place import Place
from distft.prove.proof import Line, failed, skipped

OPTIONAL = ("flash-attn", "liger-kernel", "triton")
# Without these nothing trains; what else distft asks for is the doctor's to look at.
NEEDED = (
    "torch", "transformers", "deepspeed", "tokenizers", "safetensors", "peft", "datasets", "pyarrow", "numpy",
    "hydra-core", "omegaconf", "pyyaml",
)  # fmt: skip


def lines_of(place: Place, words: Sequence[str]) -> list[str]:
    return [f"versions.{name}" for name in ("distft", "python", *NEEDED, *OPTIONAL)]


def run(place: Place, words: Sequence[str]) -> Iterator[Line]:
    """Yields a line for distft, Python and each package."""
    code = place.machine.facts.get("code") or {}
    commit = code.get("commit", "unknown")[:12] + (" with changes" if code.get("changed") else "")
    yield Line("versions.distft", "pass", distft.__version__, detail={"text": f"commit {commit}"})
    python, requirements = asked()
    yield held("python", place.machine.facts["python"], python)
    for name in NEEDED:
        installed = version_of(name)
        if installed is None:
            yield failed(f"versions.{name}", f"not installed. Try: pip install '{requirements[name]}'")
        else:
            yield held(name, installed, requirements[name].specifier)
    for name in OPTIONAL:
        installed = version_of(name)
        if installed is None:
            yield skipped(f"versions.{name}", "not installed, and not needed")
        else:
            yield Line(f"versions.{name}", "pass", installed, detail={"text": "not needed, taken where it is"})


def held(name: str, installed: str, bounds: SpecifierSet) -> Line:
    """Returns whether a version is within its bounds."""
    fits = bounds.contains(installed, prereleases=True)
    text = "" if fits else "out of the bounds that distft asks for"
    return Line(f"versions.{name}", "pass" if fits else "fail", installed, "", str(bounds), detail={"text": text})


def asked() -> tuple[SpecifierSet, dict[str, Requirement]]:
    """Returns what distft asks of Python and of each package, of a checkout or of what is installed."""
    file = Path(distft.__file__).parents[1] / "pyproject.toml"
    if file.is_file():
        project = tomllib.loads(file.read_text())["project"]
        python, texts = project["requires-python"], project["dependencies"]
    else:
        python = importlib.metadata.metadata("distft")["Requires-Python"]
        texts = [text for text in importlib.metadata.requires("distft") or [] if "extra ==" not in text]
    return SpecifierSet(python), {each.name: each for each in map(Requirement, texts)}


def version_of(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
