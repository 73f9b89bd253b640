"""The datasheet of a study after HEDS 3.0 (Belz and Thomson 2024): filled from the files of the study."""

from collections.abc import Mapping
from typing import Any

from distft.human_eval.study import Key, Settings

OPEN = "not recorded"


def datasheet(settings: Settings, key: Key, result: Mapping[str, Any]) -> str:
    """Returns Markdown."""
    counts = result["counts"]
    excluded = [f"{each['rater']}: {each['reason']}" for each in result["exclusions"]["raters"]]
    rules = result["exclusions"]["rules"]
    numbers = ", ".join(f"{counts[name]} {name}" for name in ("used", "skipped", "excluded", "undone"))
    preference = "preference between two answers: A, B, tie, both bad, skip"
    ratings = f"ratings from 1 to 5: {', '.join(settings.criteria)}"
    estimate = "win rate (a tie is half a win), Bradley-Terry" if settings.type == "pairwise" else "means"
    agreement = result.get("agreement", {}).get("krippendorff_alpha", {}).get("value")
    systems = [line for system in key.systems for line in system_lines(system.name, system)]
    sections = [
        ("1 Paper and resources", {
            "Made by": f"distft {settings.distft}, created {settings.created}",
            "Votes, SHA-256": result["votes_sha256"],
            "Items, SHA-256": result["items_sha256"],
            "Seed of all draws": settings.seed,
        }),
        ("2 Systems and outputs", {
            "Systems": ", ".join(result["systems"]),
            "Input and output": "a prompt or conversation; one text",
            "Sampling of items": f"{len(key.items)} items from {len({row for row, _ in key.items.values()})} prompts",
        }),
        ("3 Evaluators and design", {
            "Evaluators": f"{settings.raters} invited, {counts['raters']} with counted votes",
            "Who they are, how recruited": OPEN,
            "Pay": settings.pay or OPEN,
            "Votes": f"{counts['votes']} of {counts['planned_votes']} planned; {numbers}",
            "Evaluators per item": settings.overlap,
            "Blinding": "system names are not known to the server; order balanced per rater and drawn from the seed",
            "Quality control": "practice, attention checks, repeated and swapped items",
            "Exclusion rules, fixed before the first vote": f"below {rules['min_attention']:.0%} of attention checks; "
                                                            f"votes under {rules['min_seconds']:g} s",
            "Excluded evaluators": "; ".join(excluded) or "none",
            "Median seconds per vote": f"{result['seconds_per_vote']:.1f}" if result["seconds_per_vote"] else OPEN,
            "Analyses before all votes were in": sum(not each["complete"] for each in result["looks"]),
        }),
        ("4 Quality criterion", {
            "Elicitation": preference if settings.type == "pairwise" else ratings,
            "Statistics": f"{estimate} with two-way clustered 95% intervals; Krippendorff's alpha",
            "Agreement between evaluators, alpha": f"{agreement:.3f}" if agreement is not None else "see analysis.json",
            "Agreement with oneself": shares(result["self_agreement"]),
        }),
        ("5 Ethics", {
            "Approval or review": settings.ethics or OPEN,
            "Contact": settings.contact or OPEN,
            "Personal data": "no names or addresses are stored: rater numbers, votes, comments, times",
        }),
    ]  # fmt: skip
    lines = [f"# Datasheet: {settings.title}", "", "After HEDS 3.0. Fields come from the study's own files.", ""]
    for title, fields in sections:
        lines += [f"## {title}", "", *(f"- **{name}**: {value}" for name, value in fields.items())]
        lines += systems if title.startswith("2") else []
        lines.append("")
    lines += ["## Results", "", *(f"- {line}" for line in result["conclusions"]), ""]
    for title, text in (("Consent, verbatim", settings.consent), ("Instructions, verbatim", settings.instructions)):
        lines += [f"## {title}", "", *(f"> {line}".rstrip() for line in text.splitlines()), ""]
    return "\n".join(lines)


def system_lines(name: str, system: Any) -> list[str]:
    """Returns a line about the origin of a system's answers."""
    if system.command:
        return [f"- **{name}**: distft generate {' '.join(system.command)}; answers SHA-256 {system.sha256}"]
    return [f"- **{name}**: existing answers, SHA-256 {system.sha256}"]


def shares(found: Mapping[str, Any]) -> str:
    """Returns `same order 90% of 10, swapped 80% of 10`."""
    parts = [
        f"{name.replace('_', ' ')} {each['value']:.0%} of {each['n']}"
        if each
        else f"{name.replace('_', ' ')} not measured"
        for name, each in found.items()
    ]
    return ", ".join(parts)
