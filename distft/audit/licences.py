"""Licences of sources and models, and whether they allow an intended use. A reading of names, not legal advice."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from distft.audit.measures import Measure
from distft.config.data import SourceItem

Use = Literal["research", "commercial", "publish"]
USES: tuple[Use, ...] = ("research", "commercial", "publish")
LIMITS = "read from the name of the licence alone; a stated licence may be wrong, and consent of authors is not in it"
_PERMISSIVE = ("apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-3.0", "cc-by-4.0", "isc",
               "odc-by", "pddl", "unlicense", "public-domain", "cdla-permissive-2.0", "openrail")  # fmt: skip
_SHARE_ALIKE = ("cc-by-sa-3.0", "cc-by-sa-4.0", "gpl-3.0", "gpl-2.0", "agpl-3.0", "odbl", "gfdl", "cdla-sharing-1.0")
_OWN_TERMS = ("gemma", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "other", "proprietary")


@dataclass(frozen=True)
class Verdict:
    """Whether a licence allows a use: True, False, or None where its name does not say. why: in words."""

    allowed: bool | None
    why: str


def verdict(licence: str | None, use: Use) -> Verdict:
    """Returns what the name of a licence says of a use."""
    if not licence:
        return Verdict(None, "no licence is stated")
    name = licence.strip().lower().replace(" ", "-")
    if "-nc" in name or "noncommercial" in name or "non-commercial" in name:
        return Verdict(use != "commercial", f"{licence} excludes commercial use")
    if "-nd" in name:
        return Verdict(use == "research", f"{licence} excludes derived works")
    if name in _PERMISSIVE:
        return Verdict(True, f"{licence} is permissive")
    if name in _SHARE_ALIKE:
        return Verdict(True, f"{licence} asks for the same licence for derived works")
    if name in _OWN_TERMS:
        return Verdict(None, f"{licence} has terms of its own")
    return Verdict(None, f"{licence} is not a known name")


def of_folder(folder: Path | None) -> str | None:
    """Returns the licence that the README.md of a model or data set states in its front matter; None without one."""
    readme = folder / "README.md" if folder else None
    if readme is None or not readme.is_file():
        return None
    text = readme.read_text(encoding="utf-8", errors="replace")
    if not text.startswith("---"):
        return None
    try:
        front = yaml.safe_load(text[3:].partition("\n---")[0])
    except yaml.YAMLError:
        return None
    found = front.get("license") if isinstance(front, dict) else None
    return ", ".join(map(str, found)) if isinstance(found, list) else str(found) if found else None


def licences(items: Sequence[SourceItem], rows: Sequence[int], use: Use, model: str | None = None) -> list[Measure]:
    """Returns a measure for each source, and for the base model; flagged where the use is not allowed.

    rows: of each source. model: the licence of the base model; None: there is no model, or none is stated.
    """
    stated = [(Path(item.path).name, item.licence, item.origin, count) for item, count in zip(items, rows, strict=True)]
    found = [_measure(f"source {name}", licence, origin, use, count) for name, licence, origin, count in stated]
    return found + ([_measure("base model", model, None, use, 1)] if model else [])


def _measure(what: str, licence: str | None, origin: str | None, use: Use, count: int) -> Measure:
    found = verdict(licence, use)
    allowed = None if found.allowed is None else float(found.allowed)
    return Measure(
        "licence", f"allows_{use}", allowed, None, None, None, n=count, flag=found.allowed is False, limits=LIMITS,
        group=licence or "not stated", where=what,
        note=f"{found.why}; origin {origin or 'not stated'}; consent of the authors not stated",
    )  # fmt: skip
