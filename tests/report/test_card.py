"""The cards have every heading of the Hub's templates, and no number without its source in a file of the run."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import DatasetCard, ModelCard

from distft.report.card import model_card, refresh
from distft.report.cited import CITATION, Cited
from distft.report.data_card import data_card
from distft.report.energy import Energy, estimate, rated_watts
from distft.report.facts import gather
from distft.run import RunFolder, write_json
from tests.report.conftest import eval_row, train_row

TEMPLATES = Path(huggingface_hub.__file__).parent / "templates"
NUMBER = re.compile(r"\d")
AUDIT = [
    {"axis": "gender", "measure": "swap_loss_gap", "group": "", "base": 0.125, "tuned": 0.5, "low": 0.25,
     "high": 0.375, "n": 40, "flag": True, "limits": "English only", "where": "all", "p": 0.01},
    {"axis": "age", "measure": "valence_gap", "base": 0.1, "tuned": 0.1, "low": -0.1, "high": 0.1, "n": 40,
     "flag": False, "limits": "own templates"},
]  # fmt: skip


def headings(text: str) -> list[str]:
    return [line.replace(" [optional]", "") for line in text.split("---", 2)[2].splitlines() if line.startswith("##")]


def uncited(card: str) -> list[str]:
    """Returns the lines with a digit that no citation follows, apart from code, headings' front matter and names."""
    found = []
    indented: list[str] = []
    for line in card.split("---", 2)[2].splitlines():
        if line.startswith("    "):
            indented.append(line)
            continue
        if indented and line.strip():
            if any(map(NUMBER.search, indented)) and not CITATION.match(line):
                found += indented
            indented = []
        if line.startswith(("# ", "<!-- distft ")):
            continue
        last = line.rfind("-->")
        rest = re.sub(r"`[^`]*`", "", line[last:]) if last >= 0 else line
        if NUMBER.search(rest.replace("-->", "")) or (last >= 0 and not CITATION.search(line)):
            found.append(line)
    return found


@pytest.mark.slow
def test_the_model_card_has_the_headings_of_the_hub(make_run: Callable[..., RunFolder]) -> None:
    card = model_card(gather(make_run()), "me/base", [])
    expected = headings((TEMPLATES / "modelcard_template.md").read_text())
    mine = headings(card)
    assert [each for each in mine if each in expected] == expected
    assert set(mine) - set(expected) <= {"## Samples"} and "[More Information Needed]" not in card
    assert ModelCard(card).data.to_dict()["base_model"] == "me/base"


def test_every_number_of_the_model_card_has_a_source(make_run: Callable[..., RunFolder]) -> None:
    run = make_run()
    write_json(run.audit / "audit.json", AUDIT)
    write_json(
        run.goodput, {"wall_seconds": 7200.5, "seconds": {"idle": 0.5}, "goodput": 0.9} | {"failures": 0} | GOODPUT
    )
    card = model_card(gather(run), "me/base", [("checkpoint", "step 8: the last"), ("prepared data", "key1")])
    assert uncited(card) == []
    assert uncited(card.replace("<!-- metrics.jsonl#eval.8.loss -->", "")) != [], "one number without a source is seen"
    bare = CITATION.sub("", card)
    assert len(uncited(bare)) > 15, "the check sees numbers without a source"


GOODPUT: dict[str, Any] = {
    "wall_seconds": 7200.5,
    "seconds": {"idle": 0.5},
    "goodput": 0.9,
    "failures": 0,
    "best_every_steps": None,
    "lost_steps": 0,
    "saves": 1,
    "checkpoint_seconds": 1.0,
    "seconds_between_failures": None,
}


def test_each_source_exists_and_decides_its_number(make_run: Callable[..., RunFolder]) -> None:
    run = make_run()
    write_json(run.audit / "audit.json", AUDIT)
    card = model_card(gather(run), None, [])
    for key, text in {
        "metrics.jsonl#eval.0.loss": "2.5000",
        "audit/audit.json#0.tuned": "0.5",
        "plan.json#parameters": "134,515,008",
        "environment.json#packages.torch": "`2.13.0`",
    }.items():
        assert f"{text}<!-- {key} -->" in card
    cited = Cited(run, run.path.parents[1] / "prepared")
    simple = [f"{file}#{key}" for file, key in CITATION.findall(card) if key.split(".")[-1] not in WHOLE]
    missing = [source for source in simple if cited.value(source) is None]
    assert not missing, missing
    write_json(run.audit / "audit.json", [AUDIT[0] | {"tuned": 0.75}, AUDIT[1]])
    run.metrics.write_text(run.metrics.read_text().replace('"loss": 2.5', '"loss": 2.25'))
    changed = model_card(gather(run), None, [])
    assert "0.75<!-- audit/audit.json#0.tuned -->" in changed and "2.2500<!-- metrics.jsonl#eval.0.loss -->" in changed


WHOLE = {
    "length",
    "flagged",
    "last",
    "attempts",
    "model_name",
    "distft",
    "path",
    "train",
    "eval",
    "adapters",
    "trust_remote_code",
}


def test_numbers_come_from_the_runs_files(make_run: Callable[..., RunFolder]) -> None:
    facts = gather(make_run())
    card = model_card(facts, "me/base", [("chat template", "abc"), ("prepared data", "key1")])
    assert card.startswith("---\nlibrary_name: transformers") and "base_model: me/base" in card
    plain = CITATION.sub("", card)
    assert facts.changes
    for change in facts.changes:
        assert f"| {change.name} | {change.before:.4f} | {change.after:.4f} |" in plain
    assert facts.command in card and "chat template: abc" in card and "prepared data: key1" in card


def test_the_card_of_an_adapter_names_its_base_model(make_run: Callable[..., RunFolder]) -> None:
    card = model_card(gather(make_run()), "me/base", [], adapters=True)
    assert "library_name: peft" in card and "base_model_relation: adapter" in card
    assert "An adapter of me/base, in the format of peft." in card and "AutoPeftModelForCausalLM" in card


def test_the_card_of_an_adapter_says_that_its_base_was_in_4_bits(make_run: Callable[..., RunFolder]) -> None:
    run = make_run(tuning={"_target_": "distft.models.adapters.QLora"})
    card = model_card(gather(run), "me/base", [], adapters=True)
    assert "4 bits" in card and 'from_pretrained("FOLDER", quantization_config=settings)' in card
    assert "4 bits" not in model_card(gather(run), "me/base", [])


def test_another_metrics_file_gives_another_card(make_run: Callable[..., RunFolder]) -> None:
    run = make_run([eval_row(0, 3.21), train_row(1), eval_row(1, 2.34), eval_row(2, 2.5)])
    assert "| loss | 3.2100 | 2.5000 |" in CITATION.sub("", model_card(gather(run), None, []))
    assert "| loss | 3.2100 | 2.3400 |" in CITATION.sub("", model_card(gather(run, step=1), None, []))


def test_the_card_states_what_was_not_measured(make_run: Callable[..., RunFolder]) -> None:
    card = model_card(gather(make_run([train_row(1)])), None, [])
    assert "Not measured at this step." in card
    for reason in ("`distft audit run=DIR` has not been run", "no study was analyzed", "clean.leakage was off",
                   "the run used the CPU", "`distft evaluate` has not been run"):  # fmt: skip
        assert f"because {reason}" in card, reason


def test_the_card_names_licence_and_origin_of_the_data(make_run: Callable[..., RunFolder]) -> None:
    items = [{"path": "a.jsonl", "licence": "MIT", "origin": "our wiki", "weight": 2}, {"path": "b.jsonl", "weight": 1}]
    card = CITATION.sub("", model_card(gather(make_run(data={"train": items, "eval": 0.1})), None, []))
    assert "- training rows: a.jsonl (weight 2, licence MIT, origin our wiki), b.jsonl (weight 1)" in card
    assert "License: that of the base model and of the data (MIT; 1 of 2 sources names none)." in card
    assert "- `a.jsonl`: licence MIT, origin our wiki" in card and "- `b.jsonl`: licence not stated" in card


def test_a_card_is_refreshed_with_a_later_audit(make_run: Callable[..., RunFolder]) -> None:
    run = make_run()
    assert refresh(run) is None
    run.final.mkdir()
    made = [("checkpoint", "step 8"), ("note", 'a "note" --> with dashes --')]
    (run.final / "README.md").write_text(model_card(gather(run, 8), "me/base", made))
    before = (run.final / "README.md").read_text()
    assert refresh(run) == run.final / "README.md" and (run.final / "README.md").read_text() == before
    write_json(run.audit / "audit.json", AUDIT)
    refresh(run)
    after = (run.final / "README.md").read_text()
    assert "gender: swap_loss_gap" in after and "checkpoint: step 8" in after and "base_model: me/base" in after


def test_energy_is_rated_power_times_time() -> None:
    found = estimate(3600, 2, "NVIDIA H100 80GB HBM3")
    assert isinstance(found, Energy) and found.kwh == pytest.approx(1.4) and "2 x 700 W" in found.method
    devices = ("NVIDIA GH200 480GB", "NVIDIA H200", "NVIDIA A100-PCIE-40GB", "NVIDIA A100-SXM4-80GB", "NVIDIA L40S")
    assert [rated_watts(device) for device in devices] == [900, 700, 250, 400, 350]
    assert rated_watts("NVIDIA RTX A4000") is None is rated_watts("NVIDIA T400"), "not an A40, not a T4"
    assert estimate(3600, 2, None) == "the run used the CPU, whose power was not metered"
    assert estimate(3600, 2, "Abacus 9") == "the rated power of Abacus 9 is not known"


def test_the_data_card_has_the_headings_of_the_hub(tmp_path: Path) -> None:
    facts = {
        "name": "rows.jsonl", "key": "abc1", "rows": {"bad": 1, "dropped": 7, "untrained": 0, "truncated": 2},
        "splits": {"train": {"rows": 90, "tokens": 900, "trained_tokens": 300, "longest": 40}},
        "rules": [{"name": "pii", "found": 3, "dropped": 0, "action": "redact", "labels": {"email": 3}}],
        "languages": [["en", 88], ["fr", 2]], "licences": [["MIT", 90]], "labels": [["yes", 4]],
    }  # fmt: skip
    write_json(tmp_path / "data.json", facts)
    card = data_card(tmp_path)
    expected = headings((TEMPLATES / "datasetcard_template.md").read_text())
    assert headings(card) == expected and uncited(card) == [] and DatasetCard(card)
    assert "email 3<!-- data.json#rules.0.labels.email -->" in card and "no audit was written here" in card
    write_json(tmp_path / "audit.json", AUDIT)
    write_json(tmp_path / "data.json", facts | {"rows": facts["rows"] | {"dropped": 8}})
    changed = data_card(tmp_path)
    assert "rows dropped: 8<!-- data.json#rows.dropped -->" in changed and "swap_loss_gap" in changed
    assert uncited(changed) == []


def test_the_card_has_the_conclusions_of_a_study(make_run: Callable[..., RunFolder]) -> None:
    run = make_run()
    assert "Human evaluation: not measured" in model_card(gather(run), None, [])
    write_json(run.path / "human" / "study" / "analysis.json", {"conclusions": ["no difference shown", "alpha 0.3"]})
    card = model_card(gather(run), None, [])
    assert "no difference shown<!--" in card and uncited(card) == []
