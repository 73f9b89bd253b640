from pathlib import Path
from typing import Any, Literal

import pytest

from distft.config.data import Data
from distft.data.files import file_kind
from distft.data.sources import find_sources

Name = Literal["train", "eval"]


def files(path: Path | str, name: Name = "train", **data: Any) -> list[str]:
    made = Data(**{"train": "rows", "eval": None} | data | {name: str(path)})
    return [file.name for source in find_sources(name, made, "cache") for file in source.files]


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}\n")
    return folder


@pytest.mark.parametrize("name", ["données (1).jsonl", "my rows.csv", "a=b,c.json", "[x] {y}.jsonl.gz"])
def test_a_file_of_any_name_is_found(tmp_path: Path, name: str):
    assert files(make(tmp_path, name) / name) == [name]


def test_a_folder_without_splits_is_read_whole_in_order_of_names(tmp_path: Path):
    make(tmp_path, "b.jsonl", "a/c.csv", "README.md", ".git/x.json")
    assert files(tmp_path) == ["c.csv", "b.jsonl"]


def test_names_of_files_and_folders_give_the_split(tmp_path: Path):
    make(tmp_path, "train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "dev.jsonl", "test/x.jsonl")
    assert files(tmp_path) == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    assert files(tmp_path, "eval") == ["dev.jsonl"]
    assert files(tmp_path, "eval", eval_split="test") == ["x.jsonl"]
    assert files(tmp_path, split="validation") == ["dev.jsonl"]


def test_a_folder_without_the_split_is_refused_with_those_it_has(tmp_path: Path):
    make(tmp_path, "train.jsonl")
    with pytest.raises(ValueError, match=r"has no split validation or test, only train\. Try: data\.eval=0\.05"):
        files(tmp_path, "eval")


def test_a_folder_with_only_some_split_names_is_refused(tmp_path: Path):
    make(tmp_path, "train.jsonl", "more.jsonl")
    with pytest.raises(ValueError, match=r"more\.jsonl does not"):
        files(tmp_path)


def test_a_pattern_matches_its_files(tmp_path: Path):
    make(tmp_path, "b1.jsonl", "b2.jsonl", "a.jsonl")
    assert files(tmp_path / "b*.jsonl") == ["b1.jsonl", "b2.jsonl"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("rowz.jsonl", r"no such file or folder\. Did you mean .*rows\.jsonl\?"),
        ("nowhere/rows.jsonl", r"nowhere is missing"),
        ("rows.xyz", r"has an unsupported type\. Allowed: \.jsonl"),
        ("empty", "has no data files"),
    ],
)
def test_a_missing_or_unreadable_source_is_refused(tmp_path: Path, name: str, reason: str):
    make(tmp_path, "rows.jsonl", "rows.xyz", "empty/notes.xyz")
    with pytest.raises(ValueError, match=reason):
        files(tmp_path / name)


def test_a_foreign_file_does_not_make_a_saved_dataset(tmp_path: Path):
    make(tmp_path, "mine.jsonl", "dataset_info.json", "README.md", ".git/x.json")
    assert files(tmp_path) == ["mine.jsonl"]
    for names in (("dataset_info.json", "state.json"), ("dataset_dict.json",)):
        saved = make(tmp_path / names[-1], *names)
        (source,) = find_sources("train", Data(train=str(saved)), "cache")
        assert (source.saved, source.files) == (saved, ())


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        (
            "train",
            {"split": "train"},
            r"data\.split=train: .*rows\.jsonl has no splits, so it would have no effect. Try: data.split=null",
        ),
        (
            "train",
            {"split": "train[:4]"},
            r"data\.split=train\[:4\]: .*has no splits, and slices are for hub ids. Try: data.split=null",
        ),
        ("eval", {"eval_split": "dev"}, r"data\.eval_split=dev: .*has no splits"),
        (
            "train",
            {"subset": "en"},
            r"data\.subset=en has no effect without a hub id in data.train. Try: data.sub",
        ),
        ("train", {"revision": "v1", "eval": 0.1}, r"data\.revision=v1 has no effect"),
    ],
)
def test_an_unused_split_or_revision_is_refused(tmp_path: Path, name: Name, data: dict, reason: str):
    path = make(tmp_path, "rows.jsonl") / "rows.jsonl"
    with pytest.raises(ValueError, match=reason):
        files(path, name, **data)
    assert files(path, name, **dict.fromkeys(data)) == ["rows.jsonl"]
    assert files(path, "train", revision="v1", eval="some/rows") == ["rows.jsonl"]


def test_a_slice_of_a_folders_split_is_refused_with_the_split(tmp_path: Path):
    make(tmp_path, "train.jsonl")
    with pytest.raises(ValueError, match=r"only train. Try: data.split=train$"):
        files(tmp_path, split="train[:4]")
    assert files(tmp_path, split="train") == ["train.jsonl"]


def test_a_hub_id_keeps_its_split_subset_and_revision():
    data = Data(eval="someone/rows", subset="english", revision="v1", eval_split="test_sft")
    (source,) = find_sources("eval", data, "cache")
    assert (source.hub_id, source.split, source.subset, source.revision) == (
        "someone/rows",
        "test_sft",
        "english",
        "v1",
    )


@pytest.mark.parametrize(("name", "kind"), [("a.b.jsonl.zst", ".jsonl"), ("A.CSV", ".csv"), ("a.gz", ""), ("a", "")])
def test_the_format_is_the_suffix_without_compression(name: str, kind: str):
    assert file_kind(Path(name)) == kind
