"""The installed versions, compared with the requirements of distft."""

from collections.abc import Iterator, Sequence

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from distft.compat.reach import OWN_VERSION, version_of
from distft.doctor.machine import bounds
from distft.prove.place import Place
from distft.prove.proof import Line, failed, skipped

OPTIONAL = ("flash-attn", "liger-kernel", "triton")
# Required for training; the doctor checks the other requirements.
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
    yield Line("versions.distft", "pass", OWN_VERSION, detail={"text": f"commit {commit}"})
    python, packages = bounds()
    requirements = {each.name: each for each in map(Requirement, packages)}
    yield compared("python", place.machine.facts["python"], SpecifierSet(python))
    for name in NEEDED:
        installed = version_of(name)
        if installed is None:
            yield failed(f"versions.{name}", f"not installed. Try: pip install '{requirements[name]}'")
        else:
            yield compared(name, installed, requirements[name].specifier)
    for name in OPTIONAL:
        installed = version_of(name)
        if installed is None:
            yield skipped(f"versions.{name}", "optional, not installed")
        else:
            yield Line(f"versions.{name}", "pass", installed, detail={"text": "optional"})


def compared(name: str, installed: str, bounds: SpecifierSet) -> Line:
    """Returns whether a version is within its bounds."""
    fits = bounds.contains(installed, prereleases=True)
    text = "" if fits else "outside of the bounds of distft"
    return Line(f"versions.{name}", "pass" if fits else "fail", installed, "", str(bounds), detail={"text": text})
