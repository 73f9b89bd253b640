"""Overrides reach the config as typed."""

import re
import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from distft.config.overrides import WrongOverride, hydra_value, quoted, split


def read(value: str, *, text: bool = False) -> object:
    """Returns what Hydra makes of a value written by hydra_value."""
    line = f"key={hydra_value('key', value, text=text)}"
    parsed = OverridesParser.create().parse_override(line)
    assert not parsed.is_sweep_override()
    read = parsed.value()
    return [getattr(part, "text", part) for part in read] if isinstance(read, list) else getattr(read, "text", read)


PATHS = ["~/a.jsonl", "données é.jsonl", "a(1).jsonl", "s3://b?x=1", "my rows.jsonl", ">1%", "it's.jsonl", "a=b.jsonl"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("text", [True, False])
def test_plain_paths_need_no_quotes(path: str, text: bool):
    assert read(path, text=text) == path


def test_lists_of_paths_need_no_quotes():
    assert read("[~/a b.jsonl,a(1).jsonl]", text=True) == ["~/a b.jsonl", "a(1).jsonl"]


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\n\r\x00$"), min_size=1))
@pytest.mark.slow
def test_quoted_text_comes_back_as_it_was(text: str):
    assert OverridesParser.create().parse_override(f"key={quoted(text)}").value() == text


@pytest.mark.parametrize(
    ("value", "meant"),
    [("12", 12), ("1e-4", 1e-4), ("true", True), ("null", None), ("[1,2]", [1, 2]), ("abc", "abc"), ("'12'", "12")],
)
def test_numbers_and_words_keep_their_types(value: str, meant: object):
    assert read(value) == meant


def test_a_number_is_a_word_where_the_key_takes_text():
    assert read("2024", text=True) == "2024"
    assert read("true", text=True) == "true"
    assert read("null", text=True) is None


@pytest.mark.parametrize("value", ["1,2", "a.jsonl,b.jsonl"])
def test_a_comma_is_refused_with_the_list_it_may_mean(value: str):
    with pytest.raises(WrongOverride, match="are a sweep. Try: -m ") as caught:
        hydra_value("data.train", value, text=True)
    assert f"[{value}]" in str(caught.value)


def test_a_file_name_with_a_comma_is_not_a_sweep(tmp_path):
    file = tmp_path / "a,b.jsonl"
    file.touch()
    assert read(str(file), text=True) == str(file)


@pytest.mark.parametrize("text", ["", "=3", "a b=3", "--fast", "-m", "train.max_steps"])
def test_an_argument_without_a_value_is_refused(text: str):
    with pytest.raises(WrongOverride):
        split(text)


def test_prefixes_are_distinguished_from_keys():
    assert (split("+a.b=1").prefix, split("++a.b=1").prefix, split("~a.b").prefix) == ("+", "++", "~")
    assert split("name=a=b").value == "a=b"


def test_the_suggestion_for_a_comma_survives_the_shell():
    with pytest.raises(WrongOverride) as error:
        hydra_value("data.train", "a,b", text=True)
    many, one = re.findall(r"(\S+) for", str(error.value).partition("Try: ")[2])
    for offered, meant in ((many, ["a", "b"]), (one, "a,b")):
        (typed,) = shlex.split(offered)
        assert typed.startswith("data.train=")
        assert read(typed.partition("=")[2], text=True) == meant
    with pytest.raises(WrongOverride, match=r"Try: -m .*, 'optimizer.lr=\[1,2\]' for a list$"):
        hydra_value("optimizer.lr", "1,2", text=False)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("--lr=3", "optimizer.lr=3"),
        ("--per-device-train-batch-size=4", "train.micro_batch_size=4"),
        ("--resume", "checkpoint.resume=..."),
        ("--report_to=wandb", "tracker=wandb"),
        ("--tracker=wandb", "tracker=wandb"),
        ("--config-name=mine", "config=FILE.yaml, a config file of your own"),
    ],
)
def test_an_option_of_other_trainers_is_offered_as_a_setting(typed: str, offered: str):
    with pytest.raises(WrongOverride, match=re.escape(f"written key=value. Try: {offered}") + "$"):
        split(typed)
