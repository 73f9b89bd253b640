"""The model card of final/: the headings of huggingface_hub's template, each from the run's files or not measured.

Every number is followed by its source, see `distft.report.cited`. What nobody measured says so, with the reason; what
only people know, such as the intended use, says who must write it.
"""

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from distft.compat.reach import OWN_VERSION
from distft.config.data import source_items
from distft.config.freeze import read_config
from distft.generate.samples_file import Sample
from distft.report.cited import METRICS, Cited, cite
from distft.report.energy import Energy, estimate
from distft.report.facts import Facts, gather
from distft.report.tables import Fact, attempt_lines
from distft.run import RunFolder
from distft.tasks import Task, load_task

README = "README.md"
_STOPS = (
    "Its stop tokens are in generation_config.json and include more than those of the base model: "
    "`model.generate(..., generation_config=GenerationConfig.from_pretrained(FOLDER))`."
)
_PIPELINES = {  # of the Hub, for tasks of labels
    "sequence_classification": "text-classification",
    "regression": "text-classification",
    "token_classification": "token-classification",
}
_STATE = re.compile(r"<!-- distft (\{.*\}) -->")
_ASK = "not stated: the people who publish the model must write this"
_AUDIT = "audit/audit.json"
_SHOWN_FLAGS = 20
Made = Sequence[tuple[str, str | None]]

_IN_4_BITS = (
    "Trained on the base model in 4 bits (NF4, double quantization); it answers otherwise on unquantized weights."
)


def model_card(facts: Facts, base: str | None, made: Made, adapters: bool = False) -> str:
    """Returns README.md with the Hub's front matter; states what was not measured.

    made: further lines of name and text about the training and this folder: checkpoint, data, chat template.
    adapters: the folder holds only adapters to `base`, in peft's format. task: model.task.
    """
    assert facts.run is not None
    cited, task = _cited(facts.run), load_task(read_config(facts.run).model.task)
    relation = ["base_model_relation: adapter"] if adapters and base else []
    library = f"library_name: {'peft' if adapters else 'transformers'}"
    pipeline = [f"pipeline_tag: {_PIPELINES[task.name]}"] if task.name in _PIPELINES else []
    front = ["---", library, *pipeline, "tags: [distft]", *([f"base_model: {base}"] if base else []), *relation, "---"]
    opens = ["", f"An adapter of {base or 'a random tiny model'}, in the format of peft."] if adapters else []
    opens += [_STOPS] if adapters and task.model_class == "AutoModelForCausalLM" else []
    state = {"base": base, "made": [list(pair) for pair in made], "adapters": adapters, "step": facts.step}
    sections = [
        *_details(facts, cited, base),
        *_uses(),
        *_risks(cited),
        *_start(adapters, base, task, cited),
        *_training(facts, cited, made),
        *_evaluation(facts, cited, task),
        *_environment(cited),
        *_specifications(cited),
        *_rest(facts),
    ]
    return "\n".join(
        [
            *front,
            f"# {facts.name}",
            *opens,
            "",
            *sections,
            f"<!-- distft {_hidden(state)} -->",
            "",
        ]
    )


def _hidden(state: Mapping[str, Any]) -> str:
    """Returns JSON that may stand in an HTML comment, which ends at the first `--`."""
    return json.dumps(state).replace("--", "-\\u002d")


def refresh(run: RunFolder) -> Path | None:
    """Writes the model card of final/ again, with what was measured since the export; None where there is none."""
    file = run.final / README
    found = _STATE.search(file.read_text(encoding="utf-8")) if file.is_file() else None
    if found is None:
        return None
    state = json.loads(found[1])
    made = [(name, text) for name, text in state["made"]]
    text = model_card(gather(run, state["step"]), state["base"], made, state["adapters"])
    file.write_text(text, encoding="utf-8")
    return file


def _cited(run: RunFolder) -> Cited:
    plan = run.read_plan() if run.plan.is_file() else None
    return Cited(run, Path(plan.data_dir) if plan and plan.data_dir else None)


def _or(lines: Sequence[str | None], reason: str) -> list[str]:
    """Returns the lines that there are; one that says why there are none otherwise."""
    return [line for line in lines if line] or [f"Not measured, because {reason}."]


def _details(facts: Facts, cited: Cited, base: str | None) -> list[str]:
    licences = facts.data_licences or ", which name none"
    return [
        "## Model Details", "", "### Model Description", "",
        f"Made by distft {cite(OWN_VERSION, 'environment.json#packages.distft')} with", "",
        f"    {facts.command}", "", "<!-- command.txt#last -->", "",
        f"- Developed by: {_ASK}",
        f"- Funded by: {_ASK}",
        f"- Shared by: {_ASK}",
        "- Model type: language model" + (f" ({kind})" if (kind := cited("config.yaml#model.task")) else ""),
        f"- Language(s): {_languages(cited)}",
        f"- License: that of the base model and of the data{licences}. <!-- config.yaml#data.train -->",
        f"- Finetuned from model: {cite(f'`{base}`', 'config.yaml#model.path') if base else 'a random tiny model'}",
        "", "### Model Sources", "",
        f"- Repository: {_ASK}", "- Paper: none known", "- Demo: `distft chat run=DIR`", "",
    ]  # fmt: skip


def _languages(cited: Cited) -> str:
    labels = cited.value("prepared/cleaning.json#rules.language.labels") or {}
    names = list(labels)[:5]
    found = [f"`{name}` {cited(f'prepared/cleaning.json#rules.language.labels.{name}')} rows" for name in names]
    return ", ".join(found) or "not measured, because clean.language was off"


def _uses() -> list[str]:
    return [
        "## Uses", "", "### Direct Use", "",
        f"Texts like the training rows, named under Training Data. Intended use: {_ASK}.", "",
        "### Downstream Use", "", f"Further fine-tuning; {_ASK}.", "",
        "### Out-of-Scope Use", "",
        "Decisions about people (hiring, credit, health, law, police) without a human who answers for them; facts that "
        "nobody checks; languages and topics that the training rows lack; uses that the licences above exclude.", "",
    ]  # fmt: skip


def _risks(cited: Cited) -> list[str]:
    return [
        "## Bias, Risks, and Limitations", "",
        *_or(list(_audit(cited)), "`distft audit run=DIR` has not been run"), "",
        *_privacy(cited),
        "", "### Recommendations", "",
        "Publish the flags above. Audit again on texts of the intended use: a measure without a flag shows no "
        "difference on these texts, not that there is none.", "",
    ]  # fmt: skip


def _audit(cited: Cited) -> Iterator[str]:
    """Yields a line for each measure of the audit: flagged ones first, then how many were not."""
    measures = cited.value(f"{_AUDIT}#") or []
    flagged = [i for i, each in enumerate(measures) if each["flag"]]
    if measures:
        count, flags = cite(str(len(measures)), f"{_AUDIT}#length"), cite(str(len(flagged)), f"{_AUDIT}#flagged")
        yield f"{count} measures, {flags} flagged. There is no overall score."
        yield ""
    for i in flagged[:_SHOWN_FLAGS]:
        each, at = measures[i], f"{_AUDIT}#{i}"
        name = " ".join(filter(None, (each["measure"], each.get("group", ""))))
        change = [cited(f"{at}.base"), cited(f"{at}.tuned")]
        values = " to ".join(filter(None, change))
        ends = [cited(f"{at}.low"), cited(f"{at}.high")]
        interval = f", interval {ends[0]} to {ends[1]}" if all(ends) else ""
        limits = cite(each["limits"], f"{at}.limits")
        yield f"- {each['axis']}: {cite(name, f'{at}.measure')} {values}{interval}. Limits: {limits}"


def _privacy(cited: Cited) -> list[str]:
    labels = cited.value("prepared/cleaning.json#rules.pii.labels")
    if labels is None:
        return ["Personal data in the training rows: not measured, because clean.pii was off."]
    found = [f"{kind} {cited(f'prepared/cleaning.json#rules.pii.labels.{kind}')}" for kind in labels]
    action = cited("prepared/cleaning.json#rules.pii.action")
    return [f"Personal data found in the training rows: {', '.join(found) or 'none'}; action {action}."]


def _start(adapters: bool, base: str | None, task: Task, cited: Cited) -> list[str]:
    peft = "peft", f"AutoPeft{task.model_class.removeprefix('Auto')}"
    library, name = peft if adapters and base else ("transformers", task.model_class)
    first, given, last = f"    from {library} import {name}", '"FOLDER"', []
    if adapters and str(cited.value("config.yaml#tuning._target_")).endswith(".QLora"):
        first = f"{_IN_4_BITS}\n\n    import json\n{first}\n    from transformers import BitsAndBytesConfig"
        last += ['    settings = BitsAndBytesConfig.from_dict(json.load(open("FOLDER/quantization_config.json")))']
        given = '"FOLDER", quantization_config=settings'
    last.append(f"    model = {name}.from_pretrained({given})")
    return ["## How to Get Started with the Model", "", first, *last, ""]


def _training(facts: Facts, cited: Cited, made: Made) -> list[str]:
    return [
        "## Training Details", "", "### Training Data", "", *_data(facts, cited), "",
        "### Training Procedure", "", "#### Preprocessing", "", *_preprocessing(cited), "",
        "#### Training Hyperparameters", "",
        *map(_fact, facts.what),
        *(_fact(each) for each in facts.numbers if each.name not in _MEASURED),
        *(f"- {name}: {cite(value, _MADE.get(name, 'plan.json#data_dir'))}" for name, value in made if value),
        "", "#### Speeds, Sizes, Times", "",
        *_or([_fact(each) for each in facts.numbers if each.name in _MEASURED], "the run has made no step"),
        *filter(None, [cited.line("wall time", cited("goodput.json#wall_seconds"), " s in all attempts")]),
        *(["", "Attempts:", ""] if facts.attempts else []),
        *(cite(f"- {line}", "timeline.jsonl#attempts") for line in attempt_lines(facts.attempts)),
        "",
    ]  # fmt: skip


_MEASURED = ("tokens read", "target tokens, trained on", "peak memory per process")
_MADE = {"checkpoint": "metrics.jsonl#eval", "prepared data": "plan.json#data_dir",
         "chat template": "prepared/manifest.json#rendering.chat_template", "note": "final/config.json#"}  # fmt: skip


def _fact(fact: Fact) -> str:
    """Returns a line of a list with all of its sources."""
    text = fact.text
    for source in fact.source.split(" "):
        text = cite(text, source)
    return f"- {fact.name}: {text}"


def _data(facts: Facts, cited: Cited) -> Iterator[str]:
    config = read_config(cited.run)
    for number, item in enumerate(source_items(config.data.train)):
        at = f"config.yaml#data.train.{number}" if isinstance(config.data.train, list) else "config.yaml#data.train"
        about = f"licence {item.licence or 'not stated'}, origin {item.origin or 'not stated'}"
        yield f"- {cite(f'`{item.path}`', at)}: {cite(about, at)}"
    rows = [cited("prepared/report.json#splits.train.rows"), cited("prepared/report.json#splits.train.tokens")]
    if all(rows):
        yield f"- after preparation: {rows[0]} rows, {rows[1]} tokens"
    digest = cited("plan.json#reads.data")
    yield (
        f"- hash of rows, tokenizer and settings: {digest}"
        if digest
        else "- hash: not measured, because the rows are gone"
    )
    yield "- consent of the authors: not stated"


def _preprocessing(cited: Cited) -> list[str]:
    rules: Mapping[str, object] = cited.value("prepared/cleaning.json#rules") or {}
    at = "prepared/cleaning.json#rules"
    lines = [
        f"- filter {name}: found {cited(f'{at}.{name}.found')}, dropped {cited(f'{at}.{name}.dropped')}, "
        f"action {cited(f'{at}.{name}.action')}"
        for name in rules
    ]
    if "leakage" in rules:
        lines.append(f"- decontamination: {cited(f'{at}.leakage.found')} rows contained held-out texts")
    else:
        lines.append("- decontamination: not measured, because clean.leakage was off")
    overlap = cited("prepared/report.json#streams.train.overlap")
    return lines + ([f"- rows that are held out too: {overlap}"] if overlap else [])


def _evaluation(facts: Facts, cited: Cited, task: Task) -> list[str]:
    first, last = _eval_steps(facts)
    table = []
    for change in facts.changes if first is not None and last is not None else []:
        values = [cited(f"{METRICS}#eval.{step}.{change.name}", ".4f") for step in (first, last)]
        table.append(f"| {change.name} | {values[0]} | {values[1]} |")
    total = cited(f"{METRICS}#eval.{last}.target_tokens") if last is not None else None
    return [
        "## Evaluation", "", "### Testing Data, Factors & Metrics", "", "#### Testing Data", "",
        *_or([cited.line("held-out rows", cited("plan.json#eval_rows"))], "the run has no plan"), "",
        "#### Factors", "",
        "The audit compares groups of people and lengths of rows; no other factor was looked at.", "",
        "#### Metrics", "",
        f"Loss per {task.unit}; {', '.join(name for name in task.metric_names if name != 'loss')}.", "",
        "### Results", "",
        *(["| | before | after |", "|---|---|---|", *table] if table else ["Not measured at this step."]),
        *([f"\nOver {total} target tokens."] if table and total else []), "",
        *_benchmarks(cited), "", *_human(cited), "",
        "#### Summary", "",
        *(["The held-out loss " + ("fell." if facts.changes[0].better else "did not fall.")] if facts.changes
          else ["Not measured, because the run was evaluated less than twice."]), "",
        *(["## Samples", "", *_samples(facts.samples), ""] if facts.samples else []),
        "## Model Examination", "", "Not measured, because distft has no interpretability method.", "",
    ]  # fmt: skip


def _eval_steps(facts: Facts) -> tuple[int | None, int | None]:
    steps = [
        row["step"]
        for row in facts.rows
        if row["split"] == "eval" and (facts.step is None or row["step"] in (0, facts.step))
    ]
    return (steps[0], steps[-1]) if len(steps) > 1 else (None, None)


def _benchmarks(cited: Cited) -> list[str]:
    """Returns the metrics of `distft evaluate`, where it was run on other rows or tasks."""
    lines = []
    for file in sorted(cited.run.eval.glob("*/*/metrics.json")):
        name = str(file.relative_to(cited.run.path))
        for metric in cited.value(f"{name}#metrics") or {}:
            value = cited(f"{name}#metrics.{metric}.value")
            lines.append(f"- {cite(f'`{file.parent.name}` {metric}', f'{name}#metrics')}: {value}")
    return (
        ["Benchmarks:", "", *lines]
        if lines
        else ["Benchmarks: not measured, because `distft evaluate` has not been run on any."]
    )


def _human(cited: Cited) -> list[str]:
    """Returns what studies with people found, with their ethics fields."""
    lines = []
    for file in sorted((cited.run.path / "human").glob("*/analysis.json")):
        name = str(file.relative_to(cited.run.path))
        lines.append(f"- study {cite(f'`{file.parent.name}`', f'{name}#study')}: results in `{name}`")
        content = cited.value(f"{name}#") or {}
        lines += [f"  - {cite(each, f'{name}#conclusions')}" for each in content.get("conclusions", [])]
        counts = {key: each for key, each in content.items() if isinstance(each, int) and not isinstance(each, bool)}
        lines += [f"  - {key}: {cited(f'{name}#{key}')}" for key in counts]
        if (file.parent / "datasheet.md").is_file():
            lines.append(f"  - pay, consent, instructions and exclusions: `human/{file.parent.name}/datasheet.md`")
    if lines:
        return ["Human evaluation:", "", *lines]
    return ["Human evaluation: not measured, because no study was analyzed: no raters, pay or consent to report."]


def _environment(cited: Cited) -> list[str]:
    seconds, processes = cited.value("goodput.json#wall_seconds"), cited.value("plan.json#world")
    at = "environment.json#hardware"
    device = cited(f"{at}.accelerators.0")
    hours = cite(f"{seconds / 3600:.3g}", "goodput.json#wall_seconds") if seconds else None
    return [
        "## Environmental Impact", "",
        f"- Hardware Type: {device or cited(f'{at}.cpu') or 'not measured, because the run has no environment.json'}",
        f"- Hours used: {hours or 'not measured, because the run has no goodput.json'}",
        "- Cloud Provider: not measured, because distft does not ask the network",
        "- Compute Region: not measured, because distft does not ask the network",
        f"- Energy: {_energy(cited, seconds, processes)}",
        "- Carbon Emitted: not measured, because the carbon intensity of the region is not known", "",
    ]  # fmt: skip


def _energy(cited: Cited, seconds: float | None, processes: int | None) -> str:
    device = cited.value("environment.json#hardware.accelerators.0")
    found = estimate(seconds or 0.0, processes or 1, str(device) if device else None)
    if isinstance(found, Energy) and not seconds:
        return "not measured, because the run has no goodput.json"
    if isinstance(found, Energy):
        return f"{cite(f'{found.kwh:.3g}', 'goodput.json#wall_seconds')} kWh, {cite(found.method, 'plan.json#world')}"
    return f"not measured, because {found}"


def _specifications(cited: Cited) -> list[str]:
    packages = ("torch", "transformers", "deepspeed", "peft", "tokenizers")
    versions = [f"{name} {version}" for name in packages if (version := cited(f"environment.json#packages.{name}"))]
    return [
        "## Technical Specifications", "", "### Model Architecture and Objective", "",
        *_or([cited.line("architecture", cited("plan.json#model_name")),
              cited.line("parameters", cited("plan.json#parameters")),
              cited.line("loss", cited("config.yaml#loss._target_"))], "the run has no plan"), "",
        "### Compute Infrastructure", "", "#### Hardware", "",
        *_or([cited.line("processes", cited("plan.json#world"), " on ", cited("plan.json#nodes"), " node(s)"),
              cited.line("CPU", cited("environment.json#hardware.cpu")),
              cited.line("memory", cited("environment.json#hardware.memory_gib"), " GiB"),
              cited.line("platform", cited("environment.json#platform"))], "the run has no environment.json"), "",
        "#### Software", "",
        *_or([f"- Python {cited('environment.json#python')}" if cited("environment.json#python") else None,
              *(f"- {version}" for version in versions)], "the run has no environment.json"), "",
    ]  # fmt: skip


def _rest(facts: Facts) -> list[str]:
    overrides = [f"- {cite(f'`{word}`', 'command.txt#last')}" for word in _words(facts.command) if "=" in word]
    return [
        "## Citation", "", f"**BibTeX:** {_ASK}", "", f"**APA:** {_ASK}", "",
        "## Glossary", "", "Loss: mean negative log-likelihood per target token. Exposure: bits by which a planted "
        "secret ranks above random ones.", "",
        "## More Information", "", "Overrides of this run:", "", *(overrides or ["- none"]), "",
        "## Model Card Authors", "", "distft, from the files of the run.", "",
        "## Model Card Contact", "", f"{_ASK[0].upper()}{_ASK[1:]}.", "",
    ]  # fmt: skip


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command, comments=True)
    except ValueError:  # not valid shell
        return command.split()


def _samples(samples: Sequence[Sample]) -> list[str]:
    """Returns held-out prompts and answers, indented: their text is no markup."""
    names = ("prompt", "expected", "before", "after")
    blocks = ["\n".join(f"{name}: {' '.join(getattr(each, name).split())}" for name in names) for each in samples]
    lines = [f"    {line}" if line else "" for line in "\n\n".join(blocks).split("\n")]
    return [*lines, "", "<!-- eval/samples.jsonl#last -->"]
