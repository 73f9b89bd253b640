"""The data card next to data.html: the headings of huggingface_hub's template, each from data.json or not measured."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from distft.report.cited import Cited
from distft.run import RunFolder

README = "README.md"
DATA = "data.json"
_ASK = "not stated: the people who publish the data must write this"


def data_card(folder: Path) -> str:
    """Returns README.md of prepared data. folder: that of data.json."""
    cited = Cited(RunFolder(folder))
    licences = cited.value(f"{DATA}#licences") or []
    names = ", ".join(str(cited(f"{DATA}#licences.{i}.0")) for i in range(len(licences)))
    return "\n".join(
        [
            "---", "tags: [distft]", "---", f"# Dataset Card for {cited(f'{DATA}#name')}", "",
            "Rows that distft prepared for fine-tuning.", "",
            "## Dataset Details", "", "### Dataset Description", "",
            *_or([cited.line("content key", cited(f"{DATA}#key"))], "data.json is missing"),
            f"- Curated by: {_ASK}", f"- Funded by: {_ASK}", f"- Shared by: {_ASK}",
            f"- Language(s): {_languages(cited)}",
            f"- License: {names or 'not stated by any source'}", "",
            "### Dataset Sources", "", *_or(list(_sources(cited)), "no source is recorded"), "",
            "## Uses", "", "### Direct Use", "", f"Fine-tuning of language models; {_ASK}.", "",
            "### Out-of-Scope Use", "",
            "Finding the people whose words these are; uses that the licences above exclude.", "",
            "## Dataset Structure", "", *_or(list(_structure(cited)), "no rows were prepared"), "",
            "## Dataset Creation", "", "### Curation Rationale", "", f"Filters as below; {_ASK}.", "",
            "### Source Data", "", "#### Data Collection and Processing", "", *_processing(cited), "",
            "#### Who are the source data producers?", "", f"{_capital(_ASK)}. Consent: not stated.", "",
            "### Annotations", "", "#### Annotation process", "",
            *_or(list(_labels(cited)), "the rows have no labels, or distft did not count any"), "",
            "#### Who are the annotators?", "", f"{_capital(_ASK)}.", "",
            "#### Personal and Sensitive Information", "", *_personal(cited), "",
            "## Bias, Risks, and Limitations", "", *_bias(cited), "",
            "### Recommendations", "", "Audit the rows for the intended use: `distft audit data=FILE out=DIR`.", "",
            "## Citation", "", f"**BibTeX:** {_ASK}", "", f"**APA:** {_ASK}", "",
            "## Glossary", "", "Rule: a cleaning rule of distft, which tags, drops, repairs or redacts rows.", "",
            "## More Information", "", "Dropped rows with their reasons: `dropped.jsonl`; the page: `data.html`.", "",
            "## Dataset Card Authors", "", "distft, from the files of the preparation.", "",
            "## Dataset Card Contact", "", f"{_capital(_ASK)}.", "",
        ]
    )  # fmt: skip


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _or(lines: Sequence[str | None], reason: str) -> list[str]:
    return [line for line in lines if line] or [f"Not measured, because {reason}."]


def _languages(cited: Cited) -> str:
    found = cited.value(f"{DATA}#languages") or []
    names = [
        f"{cited(f'{DATA}#languages.{i}.0')} {cited(f'{DATA}#languages.{i}.1')} rows" for i in range(len(found[:10]))
    ]
    return ", ".join(names) or "not measured, because clean.language was off"


def _sources(cited: Cited) -> Iterator[str]:
    for i, _ in enumerate(cited.value(f"{DATA}#licences") or []):
        yield f"- licence {cited(f'{DATA}#licences.{i}.0')}: {cited(f'{DATA}#licences.{i}.1')} rows"


def _structure(cited: Cited) -> Iterator[str]:
    for split in cited.value(f"{DATA}#splits") or {}:
        at = f"{DATA}#splits.{split}"
        yield (
            f"- {split}: {cited(f'{at}.rows')} rows, {cited(f'{at}.tokens')} tokens, "
            f"{cited(f'{at}.trained_tokens')} of them trained, longest row {cited(f'{at}.longest')}"
        )


def _processing(cited: Cited) -> list[str]:
    at = f"{DATA}#rows"
    lines = [
        f"- rows {name}: {value}"
        for name in ("bad", "dropped", "untrained", "truncated")
        if (value := cited(f"{at}.{name}"))
    ]
    rules = cited.value(f"{DATA}#rules") or []
    for i, rule in enumerate(rules):
        of = f"{DATA}#rules.{i}"
        lines.append(
            f"- filter {rule['name']}: found {cited(f'{of}.found')}, dropped {cited(f'{of}.dropped')}, action "
            f"{cited(f'{of}.action')}"
        )
    if not any(rule["name"] == "leakage" for rule in rules):
        lines.append("- decontamination: not measured, because clean.leakage was off")
    return lines


def _labels(cited: Cited) -> Iterator[str]:
    for i, _ in enumerate((cited.value(f"{DATA}#labels") or [])[:20]):
        yield f"- label {cited(f'{DATA}#labels.{i}.0')}: {cited(f'{DATA}#labels.{i}.1')} rows"


def _personal(cited: Cited) -> list[str]:
    for i, rule in enumerate(cited.value(f"{DATA}#rules") or []):
        if rule["name"] == "pii":
            kinds = [f"{kind} {cited(f'{DATA}#rules.{i}.labels.{kind}')}" for kind in rule["labels"]]
            return [f"Found {', '.join(kinds) or 'none'}; action {cited(f'{DATA}#rules.{i}.action')}."]
    return ["Not measured, because clean.pii was off."]


def _bias(cited: Cited) -> list[str]:
    measures = cited.value("audit.json#") or []
    flagged = [i for i, each in enumerate(measures) if each["flag"]]
    if not measures:
        return ["Not measured, because no audit was written here. Try: `distft audit data=FILE out=DIR`."]
    lines = [
        f"- {measures[i]['axis']}: {cited(f'audit.json#{i}.measure')} {cited(f'audit.json#{i}.group')} "
        f"{cited(f'audit.json#{i}.base')}. Limits: {cited(f'audit.json#{i}.limits')}"
        for i in flagged[:20]
    ]
    return lines or ["- no flag in the audit of these rows"]
