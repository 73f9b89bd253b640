"""docs/models.md: every causal model type of the installed transformers, checked as a base model is before a run.

`python -m distft.prove.models` writes it, in some minutes. The config of a type is the one its class has by default.
"""

import importlib.metadata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from distft.config import command
from distft.config.command import keywords, usage
from distft.config.model_folder import wrong_architecture
from distft.model_check.architecture import ADVICE, check_config
from distft.runtime.logs import silence

KEYS = {"out": "file to write; default: docs/models.md", "types": "some model types alone, separated by commas"}
CLAIM = "Checks every causal model type of transformers and writes a table of the results."
FILE = Path(__file__).parents[2] / "docs" / "models.md"
HEAD = """# Which models are trained

Every model type that `AutoModelForCausalLM` of transformers {version} takes, in the config that its class has by
default, made small and checked as a base model is before a run: {accepted} of {all} are trained. Written by
`make models`; what counts for a run is the check of its own config.json.

- **loss**: how far the loss here is from the loss of the model's own class, relative; at most 1e-5 is accepted.
- **moved**: how far a change of one document moves the logits of another in the same forward, relative to the
  largest; at most 1e-5 is accepted.
- **not measured**: no small instance could be made, and the live model is held against its class when a run starts.

## A model that has more than text

Its text part is a model of its own, here of a folder WHOLE into a folder TEXT; with Gemma 3 it gave the same logits:

```python
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

whole = AutoModelForImageTextToText.from_pretrained("WHOLE")
text = AutoModelForCausalLM.from_config(whole.config.get_text_config(), dtype=whole.dtype)
text.model, text.lm_head = whole.model.language_model, whole.lm_head
text.save_pretrained("TEXT")
AutoTokenizer.from_pretrained("WHOLE").save_pretrained("TEXT")
```

## The types

| model_type | class | trained | loss | moved | why not |
|---|---|---|---:|---:|---|
"""


@dataclass(frozen=True)
class Row:
    """The result for a model type. trained: yes, no or not measured. difference, moved: None where not measured."""

    type: str
    name: str
    trained: str
    difference: float | None = None
    moved: float | None = None
    reason: str = ""

    def __str__(self) -> str:
        numbers = " | ".join("" if each is None else f"{each:.0e}" for each in (self.difference, self.moved))
        return f"| {self.type} | {self.name} | {self.trained} | {numbers} | {self.reason} |".replace("  ", " ")


def main(arguments: list[str]) -> int:
    given = keywords(arguments, KEYS, required=())
    silence()
    types = given["types"].split(",") if "types" in given else list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    out = Path(given.get("out", FILE))
    out.write_text(render(list(rows(types))))
    print(out)
    return 0


def render(found: list[Row]) -> str:
    accepted = sum(row.trained == "yes" for row in found)
    head = HEAD.format(version=importlib.metadata.version("transformers"), accepted=accepted, all=len(found))
    return head + "".join(f"{row}\n" for row in found)


def rows(types: Iterable[str]) -> Iterator[Row]:
    """Yields the result of the check for each model type, with the text of its messages."""
    for kind in types:
        name = str(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind])
        try:
            config = CONFIG_MAPPING[kind]()
        except Exception as error:  # some classes have no config that is valid by default
            yield Row(kind, name, "not measured", reason=f"has no config by default ({type(error).__name__})")
            continue
        _complete(config)
        if reasons := list(wrong_architecture(config.to_dict())):
            yield Row(kind, name, "no", reason=_short(reasons[0]))
            continue
        found, _ = check_config(config)
        measured = (found.get("difference"), found.get("other"))
        if found["wrong"]:
            yield Row(kind, name, "no", *measured, reason=_short(found["wrong"][0]))
        elif "unmeasured" in found:
            yield Row(kind, name, "not measured", reason=_short(found["unmeasured"]))
        else:
            yield Row(kind, name, "yes", *measured)


def _complete(config: PreTrainedConfig) -> None:
    """Sets entries that some classes leave empty by default, and that the config.json of a model has."""
    facts = config.to_dict()
    heads, hidden = facts.get("num_attention_heads"), facts.get("hidden_size")
    if isinstance(heads, int) and isinstance(hidden, int):
        for name, value in (("num_key_value_heads", heads), ("head_dim", hidden // heads)):
            if facts.get(name, value) is None:
                setattr(config, name, value)


def _short(reason: str) -> str:
    """Returns a message for a table: without its advice, on one line."""
    text = reason.removesuffix(f". {ADVICE}").partition(". Try: ")[0]
    return text.replace("|", "/").replace("\n", " ")[:200]


if __name__ == "__main__":
    command(main, help=usage("prove.models", KEYS, CLAIM))
