"""Rules that look at one row: each finds its own fault, and does not change ordinary rows."""

import dataclasses
from pathlib import Path

import pytest

from distft.config.cleaning import Clean
from distft.data.cleaning.engine import NOT_KEYWORDS
from distft.data.cleaning.options import rule_module, rule_names
from distft.data.cleaning.rules import boilerplate, cut_off, empty, encoding, language, quality, refusals, toxicity
from tests.data.cleaning.planted_rows import document, pair

PROSE = (
    "The harbour was quiet in the morning. A few boats had come back from the sea with the first light, and the men "
    "were sorting fish on the quay. Nobody spoke much, because the night had been long and the catch was small."
)
ORDINARY = [
    pair("What is 2 + 2?", "4"),
    pair("Is it?", "Yes"),
    pair("And?", "No."),
    pair("x?", "x = 3"),
    pair("Say it in Japanese.", "はい"),
    pair("A face, please.", "\U0001f642"),
    pair("Describe the harbour.", PROSE),
    pair("Write it.", "Here you are:\n\n```python\nfor i in range(3):\n    print(i)\n```\n"),
    pair("List three fruits.", "- apple\n- pear\n- plum"),
    pair("How do I say sorry?", "You can say 'I am sorry', and then explain what you will do to repair the damage."),
    pair("What is an AI model?", "A program that has learnt from data. It predicts what comes next in a text."),
    pair("Table?", "| a | b |\n|---|---|\n| 1 | 2 |"),
]
ROW_RULES = [boilerplate.Rule(), cut_off.Rule(), empty.Rule(), language.Rule(), quality.Rule(), refusals.Rule()]


@pytest.mark.parametrize("rule", [*ROW_RULES, toxicity.Rule()], ids=lambda rule: type(rule).__module__.split(".")[-1])
def test_ordinary_rows_are_left_alone_by(rule):
    for view in ORDINARY:
        found = rule.find(view)
        assert found is None or found.reason is None, (view.answer, found)


@pytest.mark.parametrize(
    ("rule", "answer", "reason"),
    [
        (empty.Rule(), "...", "the answer has 0 letters"),
        (empty.Rule(), "N/A", "placeholder 'N/A'"),
        (empty.Rule(), " \u200b \n", "the answer has 0 letters"),
        (empty.Rule(min_characters=5), "ok", "the answer has 2 letters and digits, below 5"),
        (cut_off.Rule(), PROSE[:150], "without the end of a sentence"),
        (cut_off.Rule(), PROSE[: PROSE.index("because") + 7], "in the middle of a sentence"),
        (cut_off.Rule(), "Here:\n```python\nprint(1)", "inside a code block"),
        (boilerplate.Rule(), f"{PROSE} We use cookies to improve your visit.", "1 phrases of boilerplate"),
        (boilerplate.Rule(), "Lorem ipsum dolor sit amet", "Lorem ipsum dolor"),
        (refusals.Rule(), "I'm sorry, but I can't help with that.", "the answer refuses"),
        (refusals.Rule(), "As an AI language model, I do not eat.", "the answer refuses"),
        (refusals.Rule(), "I cannot assist with this request.", "the answer refuses"),
        (refusals.Rule(), "I can\u2019t help with that.", "the answer refuses"),
        (refusals.Rule(), "Unfortunately, I am unable to open links.", "the answer refuses"),
        (refusals.Rule(), "I'm not able to provide it.", "the answer refuses"),
        (toxicity.Rule(), "What an ASSHOLE he is.", "1 listed words"),
        (quality.Rule(min_words=3), "too short", "2 words, allowed are 3"),
        (quality.Rule(), "a b c d e f g h i j k l", "words of 1.0 characters"),
        (quality.Rule(), "pneumonoultra " * 10, "words of 13.0 characters"),
        (quality.Rule(), "one #tag two #tag three #tag four #tag five #tag", "symbols per word"),
        (quality.Rule(), "12 34 56 78 90 11 22 33 44 55 word", "of the words have a letter"),
        (
            quality.Rule(min_stop_words=2),
            "harbour quiet morning boats light sorting fish quay small catch night",
            "stop",
        ),
        (quality.Rule(max_bullets=0.5), "- aa bb cc\n- dd ee ff\n- gg hh ii\n- jj kk", "of the lines are bullets"),
        (quality.Rule(max_symbols=9), "see here...\nand there...\nand more of the same words\nagain too", "ellipsis"),
        (quality.Rule(), "the same line again\n" * 4, "of the lines repeat"),
        (quality.Rule(), "I do not know what to say to you now " * 8, "word runs repeat"),
        (language.Rule(keep=["de"]), PROSE, "the language is en"),
    ],
)
def test_a_fault_is_found_with_its_reason(rule, answer: str, reason: str):
    found = rule.find(pair("What is it?", answer))
    assert found is not None and found.reason is not None and reason in found.reason


@pytest.mark.parametrize(
    ("broken", "right"),
    [
        ("The caf\u00c3\u00a9 is na\u00c3\u00afve.", "The café is naïve."),
        ("It\u00e2\u20ac\u2122s fine", "It\u2019s fine"),
        ("\u00d0\u0178\u00d1\u20ac\u00d0\u00b8\u00d0\u00b2\u00d0\u00b5\u00d1\u201a", "Привет"),
    ],
)
def test_mojibake_is_repaired_once(broken: str, right: str):
    change = encoding.Rule().change(broken)
    assert change is not None and change.text == right
    assert encoding.Rule().change(right) is None


@pytest.mark.parametrize(
    "text", ["plain", "Größe, naïve, Ærø, Ç", "\u201cquoted\u201d &amp; ﬁne", "x² ≤ y", "Ωmega\r\n", "한국어 テキスト"]
)
def test_text_in_any_language_is_not_mojibake(text: str):
    assert encoding.Rule().change(text) is None


def test_the_language_of_fifty_characters_is_known():
    lines = Path(__file__).with_name("languages.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines]
    labels = [language.Rule().detect(text)[0] for _, text in rows]
    right = sum(label == code for label, (code, _) in zip(labels, rows, strict=True))
    assert len({code for code, _ in rows}) >= 20
    assert right / len(rows) >= 0.97, right / len(rows)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("def f(x):\n    return x + 1\n\nfor i in range(10):\n    print(f(i))\n", "code"),
        ("```sql\nSELECT name FROM users WHERE id = 3;\n```", "code"),
        ("#include <stdio.h>\nint main() {\n  return 0;\n}", "code"),
        ("ok", "und"),
        ("1234 5678", "und"),
        (f"{PROSE}\n```python\nprint(1)\n```", "en"),
    ],
)
def test_code_is_labelled_and_never_dropped(text: str, label: str):
    found = language.Rule(keep=["de"]).find(document(text))
    assert found is not None and found.labels == (label,)
    assert (found.reason is None) == (label in ("code", "und"))


def test_a_word_list_of_ones_own_replaces_ours(tmp_path: Path):
    (tmp_path / "words.txt").write_text("# mine\nfrobni*\nbad  phrase\n")
    rule = toxicity.Rule(words=str(tmp_path / "words.txt"))
    assert rule.find(document("do not frobnicate")) and rule.find(document("a bad phrase"))
    assert rule.find(document("asshole")) is None and rule.find(document("refrobni")) is None
    assert toxicity.Rule(max_words=1).find(document("shit, one word")) is None
    (tmp_path / "words.txt").write_text("# nothing\n")
    with pytest.raises(ValueError, match="lists no words"):
        rule_of_none = toxicity.Rule(words=str(tmp_path / "words.txt"))
        rule_of_none.find(document("x"))


def test_every_section_of_the_group_is_a_rule_of_its_options():
    folder = Path(rule_module("pii").__file__).parent
    sections = {name: getattr(Clean(), name).plain() for name in rule_names(Clean())}
    assert {path.stem for path in folder.glob("[!_]*.py")} == set(sections)
    for name, section in sections.items():
        module = rule_module(name)
        options = {field.name: field.default for field in dataclasses.fields(module.Rule)} | {"index": None}
        wanted = {key: value for key, value in section.items() if key not in NOT_KEYWORDS}
        assert isinstance(module.VERSION, int)
        assert options.keys() - {"index"} == wanted.keys(), name
        rule = module.Rule()
        for key, value in wanted.items():
            ours = getattr(rule, key)
            assert (list(ours) if isinstance(ours, tuple) else ours) == value, f"{name}.{key}"
