"""The model card of final/: what made this model, every number from the run's own files, nothing typed by hand."""

from collections.abc import Sequence
from typing import Any

import distft
from distft.report.facts import Facts, attempt_lines

_STOPS = (
    "It ends its answers with the tokens in generation_config.json, which are not those of the base model alone: "
    "`model.generate(..., generation_config=GenerationConfig.from_pretrained(FOLDER))`."
)


def model_card(facts: Facts, base: str | None, made: Sequence[tuple[str, Any]], adapters: bool = False) -> str:
    """Returns README.md with the Hub's front matter; what was not measured is said to be so.

    made: further lines about the training and this folder: which checkpoint it is of, data, chat template.
    adapters: the folder holds no whole model but adapters to `base`, for peft to open.
    """
    relation = ["base_model_relation: adapter"] if adapters and base else []
    library = f"library_name: {'peft' if adapters else 'transformers'}"
    front = ["---", library, "tags: [distft]", *([f"base_model: {base}"] if base else []), *relation, "---"]
    opens = ["", f"An adapter of {base or 'a random tiny model'}, opened by peft.", _STOPS] if adapters else []
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
            *([f"\nOver {facts.held_out_tokens:,} target tokens."] if measured else []),
            "",
            "## Training",
            "",
            *_lines(facts.what + facts.numbers),
            *_lines(made),
            *(attempts if facts.attempts else []),
            "",
            "Not measured: benchmarks, bias, memorisation. Licence: that of the base model and of the data.",
            "",
        ]
    )


def _lines(pairs: Sequence[tuple[str, Any]]) -> list[str]:
    return [f"- {key}: {value}" for key, value in pairs if value]
