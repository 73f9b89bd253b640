"""docs/models.md lists for every causal model type the result of the base model check."""

from importlib.metadata import version

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from distft.prove.models import FILE, render, rows

TEXT = FILE.read_text()
pytestmark = pytest.mark.skipif(
    f"transformers {version('transformers')} " not in TEXT,
    reason="docs/models.md is of another version of transformers",
)
LISTED = {line.split(" | ")[0].removeprefix("| "): line for line in TEXT.splitlines() if line[:2] == "| "}
SOME = ("llama", "gpt2", "granite", "bert", "mixtral", "mamba", "modernbert-decoder", "gemma3")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def same(one: str, other: str) -> None:
    """Compares type, class, whether it is trained, and the reason where no loss stands in it."""
    (*start, _, _, reason), (*listed, loss, moved, why) = cells(one), cells(other)
    assert start == listed
    assert reason == why or "computes a loss" in why
    assert listed[-1] != "yes" or max(float(loss), float(moved)) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", SOME)
def test_the_docs_match_the_check_of_some_model_types(kind: str) -> None:
    [row] = rows([kind])
    same(str(row), LISTED[kind])


@pytest.mark.soak
def test_the_docs_match_the_check_of_every_model_type() -> None:
    found = list(rows(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
    for row in found:
        same(str(row), LISTED[row.type])
    assert render(found).partition("- **loss**")[0] == TEXT.partition("- **loss**")[0]
    assert sum(row.trained == "yes" for row in found) > 40


def test_every_type_of_the_installed_transformers_is_listed() -> None:
    assert set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) == set(LISTED) - {"model_type"}, "Try: make models"
