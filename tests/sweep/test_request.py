"""A sweep's command line is split into shared overrides, swept keys and the sweep's own keys."""

import pytest

from distft.config import ConfigError
from distft.config.overrides import swept_value
from distft.sweep.jobs import named
from distft.sweep.request import Request, corners, parse, read_request


def messages(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(read_request(overrides).swept)
    return caught.value.messages


def test_each_override_goes_where_it_belongs():
    request = read_request(["train.max_steps=3", "seed=0,1", "sweep.fail_fast=true", "name=x", "~optimizer.betas"])
    assert request == Request(
        shared=("train.max_steps=3", "~optimizer.betas"), own=("sweep.fail_fast=true", "name=x"), swept=("seed=0,1",)
    )
    assert request.of_job(("seed=1",)) == ("train.max_steps=3", "~optimizer.betas", "seed=1", "export=false")
    for word in ("export=true", "export.enabled=true"):
        assert read_request(["seed=0,1", word]).of_job(("seed=1",)) == (word, "seed=1")
    latest = read_request(["seed=0,1", "export.at=latest"])
    assert latest.of_job(("seed=1",))[-1] == "export=false", "the best job alone is exported, at its latest"


@pytest.mark.parametrize(
    ("value", "sweep"),
    [
        ("1e-5,3e-5", "1e-5,3e-5"),
        ("range(0,3)", "range(0,3)"),
        ("choice(4,8)", "choice(4,8)"),
        ("tag(log,interval(1e-5,1e-3))", "tag(log,interval(1e-5,1e-3))"),
        ("[0.9,0.95],[0.9,0.99]", "[0.9,0.95],[0.9,0.99]"),
        ("a(1).jsonl,~/b.jsonl", "'a(1).jsonl','~/b.jsonl'"),
        ("[0.9,0.95]", None),
        ("'a,b'", None),
        ("a(1).jsonl", None),
        ("{a: 1, b: 2}", None),
    ],
)
def test_commas_and_hydra_functions_sweep_and_paths_do_not(value: str, sweep: str | None):
    assert swept_value("key", value) == sweep


def test_a_file_with_a_comma_in_its_name_is_one_value(tmp_path):
    (tmp_path / "a,b.jsonl").touch()
    assert swept_value("data.train", str(tmp_path / "a,b.jsonl")) is None


def test_the_last_override_of_a_key_wins():
    assert read_request(["seed=0,1", "seed=2,3"]).swept == ("seed=2,3",)
    assert read_request(["seed=0,1", "seed=2", "optimizer=adamw,sgd"]).swept == ("optimizer=adamw,sgd",)


def test_keys_that_cannot_be_swept_are_refused_all_at_once():
    said = messages("name=a,b", "launcher=local,slurm", "sweep.seed=1,2", "-x")
    assert len(said) == 4 and sum("cannot be swept" in line for line in said) == 3
    assert "-m" in messages("seed=1")[0]
    assert "shuffle" in messages("seed=shuffle(1,2)")[0]


def test_corners_have_all_choices_and_the_ends_of_numbers():
    parsed = parse(["a=choice(x,y)", "b=range(1,6)", "c=interval(0.1,1)"])
    assert len(corners(parsed, 64)) == 8 and ("a=y", "b=5", "c=0.1") in corners(parsed, 64)
    assert {text for point in corners(parsed, 2) for text in point} == {"a=x", "a=y", "b=1", "b=5", "c=0.1", "c=1.0"}


def test_every_choice_of_a_group_is_swept_by_glob():
    words = {point[0] for point in corners(parse(["optimizer=glob(*)"]), 64)}
    assert words >= {"optimizer=adamw", "optimizer=sgd"}


def test_a_jobs_folder_is_named_by_number_and_values():
    points = [("optimizer.lr=1e-05", "+seed=0"), ("data.train='~/a b.jsonl'", "seed=1")]
    assert list(named(points)) == ["000-optimizer.lr_1e-05-seed_0", "001-data.train_-a-b.jsonl-seed_1"]
    [name] = named([("model.path=" + "x" * 400,)], 7)
    assert name.startswith("007-model.path_xxx") and len(name) < 130


def test_an_experiment_brings_what_it_sweeps() -> None:
    request = read_request(["experiment=sft_lora", "data.train=org/rows"])
    assert request.swept == ("optimizer.lr=1e-4,2e-4,5e-4", "tuning.rank=8,32")
    assert request.shared == ("experiment=sft_lora", "data.train=org/rows")
    assert read_request(["experiment=sft_lora", "seed=0,1"]).swept == ("seed=0,1",), "what is typed takes its place"
    with pytest.raises(ConfigError, match="no key has more than one value"):
        read_request(["experiment=laptop_demo"])
