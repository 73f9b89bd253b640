"""Several sources with weights, caps and epochs."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distft.config import Config, ConfigError, compose
from distft.config.data import wrong_items
from distft.data.key import data_key
from distft.data.shards import Rows
from distft.data.stage import prepare_data
from distft.data.tokenize import byte_tokenizer

Make = Callable[..., Config]
WriteRows = Callable[..., Path]


@pytest.fixture
def files(write_rows: WriteRows) -> tuple[str, str]:
    """Two files, of 60 and of 20 rows."""
    made = [[{"text": f"{name}{i}"} for i in range(count)] for name, count in (("a", 60), ("b", 20))]
    return str(write_rows(made[0], "a.jsonl")), str(write_rows(made[1], "b.jsonl"))


def texts(config: Config, part: str = "train") -> list[str]:
    rows = Rows(prepare_data(config).folder, part)
    return [byte_tokenizer().decode(row.input_ids).removesuffix("<|im_end|>") for row in rows]


def count(found: list[str]) -> dict[str, int]:
    return dict(Counter(text[0] for text in found))


def test_weights_are_shares_of_the_rows(config: Make, files: tuple[str, str]):
    found = texts(config([{"path": files[0], "weight": 1}, {"path": files[1], "weight": 1}]))
    assert count(found) == {"a": 20, "b": 20} and len(set(found)) == 40
    assert all(set(count(found[i : i + 8])) == {"a", "b"} for i in range(0, 40, 8)), "evenly interleaved"
    uneven = texts(config([{"path": files[0], "weight": 3}, {"path": files[1], "weight": 1}]))
    assert count(uneven) == {"a": 60, "b": 20}


@pytest.mark.slow
def test_epochs_repeat_a_source(config: Make, files: tuple[str, str]):
    found = texts(config([files[0], {"path": files[1], "epochs": 2.5}]))
    assert count(found) == {"a": 60, "b": 50}
    times = Counter(text for text in found if text[0] == "b")
    assert sorted(times.values()) == [2] * 10 + [3] * 10
    weighted = [{"path": files[0], "weight": 1}, {"path": files[1], "weight": 1, "epochs": 3}]
    assert count(texts(config(weighted))) == {"a": 60, "b": 60}


@pytest.mark.slow
def test_a_cap_is_a_stable_sample(config: Make, files: tuple[str, str], write_rows: WriteRows):
    found = texts(config([{"path": files[0], "cap": 10}, files[1]]))
    assert count(found) == {"a": 10, "b": 20}
    assert found[:10] == sorted(found[:10], key=lambda text: int(text[1:])), "in the order of the source"
    longer = str(write_rows([{"text": f"a{i}"} for i in range(65)], "longer.jsonl"))
    more = texts(config([{"path": longer, "cap": 10}]))
    assert len(set(more) & set(found)) >= 8
    assert texts(config([{"path": files[0], "cap": 100}])) == texts(config(files[0]))


def test_held_out_rows_count_once_in_a_mixture(config: Make, files: tuple[str, str]):
    asked = config([{"path": files[0], "weight": 1}, {"path": files[1], "weight": 1, "epochs": 3}], eval=0.25)
    held_out, train = texts(asked, "eval"), texts(asked)
    assert len(held_out) == len(set(held_out)) > 8
    assert not set(held_out) & set(train)


def test_the_report_counts_each_source(config: Make, files: tuple[str, str], write_rows: WriteRows):
    bad = write_rows([{"text": "c1"}, {"text": ""}], "c.jsonl")
    items = [
        {"path": files[0], "cap": 10, "licence": "MIT", "origin": "our wiki"},
        {"path": str(bad), "epochs": 4},
    ]
    prepared = prepare_data(config(items, max_bad_fraction=0.5))
    first, second = prepared.report["sources"]
    assert (first["path"], first["licence"], first["origin"]) == (files[0], "MIT", "our wiki")
    assert (first["read"], first["bad"], first["splits"]["train"]["rows"], first["mixing"]) == (60, 0, 10, {"cap": 10})
    assert (second["read"], second["bad"], second["splits"]["train"]["rows"]) == (2, 1, 4)
    assert (
        sum(each["splits"]["train"]["tokens"] for each in (first, second))
        == (prepared.report["splits"]["train"]["tokens"])
    )


def test_shares_change_the_key_and_licences_do_not(config: Make, files: tuple[str, str]):
    def key(**options: Any) -> str:
        return data_key(config([{"path": files[0], **options}, files[1]]))

    plain = data_key(config(list(files)))
    assert key() == key(licence="MIT", origin="x") == plain
    assert len({plain, key(cap=5), key(cap=6), key(epochs=2), key(epochs=3)}) == 5


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([{"path": "a", "wieght": 1}], "data.train[0].wieght: is not a key of a source. Did you mean weight?"),
        ([{"path": "a", "license": "MIT"}], "Did you mean licence?"),
        ([{"path": "a", "weight": -1}], "data.train[0].weight=-1: is not a number above 0"),
        ([{"path": "a", "cap": 1.5}], "data.train[0].cap=1.5: is not a whole number of at least 1"),
        ([{"weight": 1}], "data.train[0]: has no path. Try: {path: FILE}"),
        ([3], "data.train[0]=3: an item is a path"),
        ([{"path": "a", "weight": 1}, "b"], "data.train[1].weight=null: 1 of 2 items have a weight"),
    ],
)
def test_a_wrong_item_is_named_with_its_rule(items: list[Any], message: str):
    [found] = wrong_items({"train": items})
    assert message in found


def test_all_wrong_items_are_reported_at_once(files: tuple[str, str]):
    items = f"[{{path:{files[0]},wieght:1}},{{path:{files[1]},epochs:0}}]"
    held = f"[{{path:{files[1]},weight:2}}]"
    with pytest.raises(ConfigError) as error:
        compose(["model.tiny=true", f"data.train={items}", f"data.eval={held}", "seed=x"])
    text = "\n".join(error.value.messages)
    for part in ("data.train[0].wieght", "data.train[1].epochs=0", "data.eval[0].weight=2: has no effect", "seed=x"):
        assert part in text


def test_items_of_a_command_line_are_read(files: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    config = compose(["model.tiny=true", "data.train=[{path:a.jsonl,epochs:2},b.jsonl]", "data.eval=null"])
    assert config.data.train == [{"path": files[0], "epochs": 2}, files[1]]
