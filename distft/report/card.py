"""The model card of final/, with every number taken from the run's files."""

from collections.abc import Sequence

import distft
from distft.generate.samples_file import Sample
from distft.report.facts import Facts
from distft.report.tables import attempt_lines
from distft.tasks import load_task

_STOPS = (
    "Its stop tokens are in generation_config.json and include more than those of the base model: "
    "`model.generate(..., generation_config=GenerationConfig.from_pretrained(FOLDER))`."
)
_PIPELINES = {  # of the Hub, for tasks of labels
    "sequence_classification": "text-classification",
    "regression": "text-classification",
    "token_classification": "token-classification",
}


def model_card(
    facts: Facts,
    base: str | None,
    made: Sequence[tuple[str, str | None]],
    adapters: bool = False,
    task: str = "causal_lm",
) -> str:
    """Returns README.md with the Hub's front matter; states what was not measured.

    made: further lines of name and text about the training and this folder: checkpoint, data, chat template.
    adapters: the folder holds only adapters to `base`, in peft's format. task: model.task.
    """
    relation = ["base_model_relation: adapter"] if adapters and base else []
    library = f"library_name: {'peft' if adapters else 'transformers'}"
    front = [
        "---",
        library,
        *([f"pipeline_tag: {_PIPELINES[task]}"] if task in _PIPELINES else []),
        "tags: [distft]",
        *([f"base_model: {base}"] if base else []),
        *relation,
        "---",
    ]
    opens = ["", f"An adapter of {base or 'a random tiny model'}, in the format of peft."] if adapters else []
    opens += [_STOPS] if adapters and task == "causal_lm" else []
    unit = "target token" if task == "causal_lm" else load_task(task).unit
    measured = [f"| {c.name} | {c.before:.4f} | {c.after:.4f} |" for c in facts.changes]
    table = ["| | before | after |", "|---|---|---|", *measured] if measured else ["Not measured at this step."]
    attempts = ["", "## Attempts", "", *(f"- {line}" for line in attempt_lines(facts.attempts))]
    return "\n".join(
        [
            *front,
            f"# {facts.name}",
            *opens,
            "",
            f"Made by distft {distft.__version__} with",
            "",
            f"    {facts.command}",
            "",
            "## Held-out rows",
            "",
            *table,
            *([f"\nOver {facts.held_out_tokens:,} {unit}s."] if measured else []),
            *(["", "## Samples", "", *_samples(facts.samples)] if facts.samples else []),
            "",
            "## Training",
            "",
            *_lines([(fact.name, fact.text) for fact in facts.what + facts.numbers]),
            *_lines(made),
            *(attempts if facts.attempts else []),
            "",
            "Not measured: benchmarks, bias, memorisation. "
            f"Licence: that of the base model and of the data{facts.data_licences}.",
            "",
        ]
    )


def _samples(samples: Sequence[Sample]) -> list[str]:
    """Returns held-out prompts and answers, indented: their text is no markup."""
    names = ("prompt", "expected", "before", "after")
    blocks = ["\n".join(f"{name}: {' '.join(getattr(each, name).split())}" for name in names) for each in samples]
    return [f"    {line}" if line else "" for line in "\n\n".join(blocks).split("\n")]


def _lines(pairs: Sequence[tuple[str, str | None]]) -> list[str]:
    return [f"- {key}: {value}" for key, value in pairs if value]
