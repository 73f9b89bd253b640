"""The model card has the numbers of the run's files."""

from collections.abc import Callable

from distft.report.card import model_card
from distft.report.facts import gather
from distft.run import RunFolder, write_json
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


def test_the_card_names_licence_and_origin_of_the_data(make_run: Callable[..., RunFolder]) -> None:
    items = [{"path": "a.jsonl", "licence": "MIT", "origin": "our wiki", "weight": 2}, {"path": "b.jsonl", "weight": 1}]
    card = model_card(gather(make_run(data={"train": items, "eval": 0.1})), None, [])
    assert "- training rows: a.jsonl (weight 2, licence MIT, origin our wiki), b.jsonl (weight 1)" in card
    assert "Licence: that of the base model and of the data (MIT; 1 of 2 sources names none)." in card


def test_the_card_has_the_conclusions_of_a_study(make_run: Callable[..., RunFolder]) -> None:
    run = make_run()
    assert "Human evaluation" not in model_card(gather(run), None, [])
    write_json(run.path / "human" / "study" / "analysis.json", {"conclusions": ["no difference shown", "alpha 0.3"]})
    assert "## Human evaluation\n\n- no difference shown. alpha 0.3\n" in model_card(gather(run), None, [])
