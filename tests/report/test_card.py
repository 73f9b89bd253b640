"""The model card has the numbers of the run's files."""

from collections.abc import Callable

from distft.report.card import model_card
from distft.report.facts import gather
from distft.run import RunFolder
from tests.report.conftest import eval_row, train_row


def test_numbers_come_from_the_runs_files(make_run: Callable[..., RunFolder]) -> None:
    facts = gather(make_run())
    card = model_card(facts, "me/base", [("chat template", "abc"), ("prepared data", "key1")])
    assert card.startswith("---\nlibrary_name: transformers") and "base_model: me/base" in card
    assert facts.changes
    for change in facts.changes:
        assert f"| {change.name} | {change.before:.4f} | {change.after:.4f} |" in card
    assert facts.command in card and "chat template: abc" in card and "prepared data: key1" in card


def test_the_card_of_an_adapter_names_its_base_model(make_run: Callable[..., RunFolder]) -> None:
    card = model_card(gather(make_run()), "me/base", [], adapters=True)
    assert "library_name: peft" in card and "base_model_relation: adapter" in card
    assert "An adapter of me/base, in the format of peft." in card


def test_another_metrics_file_gives_another_card(make_run: Callable[..., RunFolder]) -> None:
    run = make_run([eval_row(0, 3.21), train_row(1), eval_row(1, 2.34), eval_row(2, 2.5)])
    assert "| loss | 3.2100 | 2.5000 |" in model_card(gather(run), None, [])
    assert "| loss | 3.2100 | 2.3400 |" in model_card(gather(run, step=1), None, []), "the exported checkpoint's"


def test_the_card_states_what_was_not_measured(make_run: Callable[..., RunFolder]) -> None:
    assert "Not measured at this step." in model_card(gather(make_run([train_row(1)])), None, [])
