"""Every key of the `clean` group changes what is found, and every preset is what its first line says."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from distft.config import Config
from distft.config.schema import KEYS
from distft.data.cleaning.engine import make_cleaner
from distft.data.cleaning.rules.leakage import texts_of_files
from distft.data.cleaning.survey import Places, Survey
from distft.data.example import Example, Segment
from distft.data.raw import RawRow
from tests.data.cleaning.planted_rows import near_pair, words

CHOOSE = random.Random(0)
LONG = [" ".join(words(CHOOSE, 40)) + "." for _ in range(40)]
SIMILAR = [" ".join(text) for text in near_pair(CHOOSE, 0.7, 0.75, 100)]
ROWS: list[tuple[str, str]] = [
    *((f"Question {i}?", text) for i, text in enumerate(LONG)),
    ("Broken?", "The caf\u00c3\u00a9 is open."),
    ("Mail?", "Write to jo@firma.de or ring 030 901820 or (415) 555-2671."),
    ("Private?", "The host is 10.1.2.3 today."),
    ("Empty?", "..."),
    ("Short?", "hm"),
    ("Cut?", "It was late. The men of the harbour had been out all night in the rain, and so they went to the"),
    ("Cut later?", "It was so late that they went to the"),
    ("Wer?", "Der Zug nach Hamburg hat heute leider mehr als eine Stunde Verspätung gehabt."),
    ("Many?", "word " * 400),
    ("Symbols?", "one #tag two #tag three #tag four #tag five #tag"),
    ("Some symbols?", "the one #tag and the two or three others of four words"),
    ("Bullets?", "- aa bb cc\n- dd ee ff\n- gg hh ii\nand one more line jj"),
    ("Dots?", "see it here...\nand over there too\nand more of the words\nagain then it was"),
    ("Digits?", "12 34 56 78 90 11 22 word word word word word"),
    ("Tiny words?", "a be a of a it a is a we a he a"),
    ("Long words?", "internationalisation " * 3 + "characterisation " * 9),
    ("Loop?", ("the same line again\n" * 3) + "a new line\nand another line of it"),
    ("Cookies?", "We use cookies on this page."),
    ("Help?", "I can't help with that."),
    ("Late refusal?", f"{LONG[0]} I can't help with that."),
    ("Rude?", "What an asshole."),
    ("Odd word?", "frobnicate it"),
    ("QUESTION 3", LONG[3]),
    ("Question 4?", "quite another answer to the question of before"),
    ("Same answer?", LONG[5]),
    ("Similar?", SIMILAR[0]),
    ("Similar again?", SIMILAR[1]),
    ("Is it so?", "yes"),
    ("Is it so?", "no"),
    ("What of it?", "it is one thing in six words"),
    ("What of it?", "it is another thing in seven words"),
]
EDITED = " ".join(word if i % 14 else "other" for i, word in enumerate(LONG[7].split()))

# key -> what is set in both, and the value that must change the outcome
CHANGES: dict[str, tuple[dict[str, Any], Any]] = {
    "encoding.enabled": ({}, True),
    "encoding.action": ({"encoding.enabled": True}, "drop"),
    "pii.enabled": ({}, True),
    "pii.action": ({"pii.enabled": True}, "redact"),
    "pii.kinds": ({"pii.enabled": True, "pii.action": "redact"}, ["private_ip"]),
    "pii.region": ({"pii.enabled": True, "pii.action": "redact"}, "DE"),
    "empty.enabled": ({}, True),
    "empty.action": ({"empty.enabled": True}, "tag"),
    "empty.min_characters": ({"empty.enabled": True}, 3),
    "cut_off.enabled": ({}, True),
    "cut_off.action": ({"cut_off.enabled": True}, "tag"),
    "cut_off.min_words": ({"cut_off.enabled": True}, 5),
    "length.enabled": ({"length.max_words": 100}, True),
    "length.action": ({"length.enabled": True, "length.max_words": 100}, "tag"),
    "length.min_words": ({"length.enabled": True}, 3),
    "length.max_words": ({"length.enabled": True}, 100),
    "length.outlier": ({"length.enabled": True}, 4.0),
    "language.enabled": ({"language.keep": ["en"]}, True),
    "language.action": ({"language.enabled": True, "language.keep": ["en"]}, "tag"),
    "language.keep": ({"language.enabled": True}, ["de"]),
    "language.min_score": ({"language.enabled": True, "language.keep": ["de"]}, 1.0),
    "quality.enabled": ({}, True),
    "quality.action": ({"quality.enabled": True}, "tag"),
    "quality.min_words": ({"quality.enabled": True}, 5),
    "quality.max_words": ({"quality.enabled": True}, 200),
    "quality.min_word_length": ({"quality.enabled": True}, 1.0),
    "quality.max_word_length": ({"quality.enabled": True}, 30.0),
    "quality.max_symbols": ({"quality.enabled": True}, 0.01),
    "quality.max_bullets": ({"quality.enabled": True}, 0.5),
    "quality.max_ellipsis": ({"quality.enabled": True}, 0.2),
    "quality.min_alphabetic": ({"quality.enabled": True}, 0.2),
    "quality.min_stop_words": ({"quality.enabled": True}, 2),
    "quality.max_repeated": ({"quality.enabled": True}, 0.2),
    "boilerplate.enabled": ({}, True),
    "boilerplate.action": ({"boilerplate.enabled": True}, "tag"),
    "boilerplate.max_phrases": ({"boilerplate.enabled": True}, 1),
    "refusals.enabled": ({}, True),
    "refusals.action": ({"refusals.enabled": True}, "tag"),
    "refusals.window": ({"refusals.enabled": True}, 1000),
    "toxicity.enabled": ({}, True),
    "toxicity.action": ({"toxicity.enabled": True}, "tag"),
    "toxicity.words": ({"toxicity.enabled": True}, "WORDS"),
    "toxicity.max_words": ({"toxicity.enabled": True}, 1),
    "leakage.enabled": ({"leakage.against": ["TEST"]}, True),
    "leakage.against": ({"leakage.enabled": True}, ["TEST"]),
    "leakage.ngram": ({"leakage.enabled": True, "leakage.against": ["TEST"]}, 13),
    "leakage.threshold": ({"leakage.enabled": True, "leakage.against": ["TEST"]}, 0.9),
    "label_noise.enabled": ({}, True),
    "label_noise.action": ({"label_noise.enabled": True}, "drop"),
    "label_noise.threshold": ({"label_noise.enabled": True}, 1.0),
    "label_noise.folds": ({"label_noise.enabled": True, "label_noise.action": "drop"}, 2),
    "exact_duplicates.enabled": ({}, True),
    "exact_duplicates.action": ({"exact_duplicates.enabled": True}, "tag"),
    "exact_duplicates.parts": ({"exact_duplicates.enabled": True}, ["answer"]),
    "contradictions.enabled": ({}, True),
    "contradictions.action": ({"contradictions.enabled": True}, "drop"),
    "contradictions.max_words": ({"contradictions.enabled": True}, 9),
    "near_duplicates.enabled": ({}, True),
    "near_duplicates.action": ({"near_duplicates.enabled": True}, "tag"),
    "near_duplicates.parts": ({"near_duplicates.enabled": True}, ["prompt"]),
    "near_duplicates.threshold": ({"near_duplicates.enabled": True}, 0.65),
    "near_duplicates.ngram": ({"near_duplicates.enabled": True, "near_duplicates.threshold": 0.75}, 1),
    "groups.by_prompt": ({}, True),
    "groups.field": ({}, "set"),
}


def outcome(changes: dict[str, Any], folder: Path) -> Any:
    """Returns what becomes of the rows: found and dropped by rule, groups, and the texts that are trained on."""
    config = Config.of({"model": {"tiny": True, "path": "x"}, "data": {"train": "x"}})
    config = config.changed({f"clean.{key}": value for key, value in changes.items()})
    cleaner = make_cleaner(config)
    if cleaner is None:
        return None
    cleaner = cleaner.guarding(texts_of_files(config.clean.leakage.against))
    looked = []
    for line, (prompt, answer) in enumerate([*ROWS, ("Leak?", EDITED)], 1):
        raw = RawRow("rows", line, {"prompt": prompt, "completion": answer, "set": line // 20})
        label = "numbered" if prompt.startswith("Question") and prompt != "Question 7?" else "other"
        example = Example((Segment("prompt", prompt, False), Segment("completion", answer, True)), label=label)
        looked.append(cleaner.look(raw, example, {}))
    survey, places = Survey(cleaner, folder), Places()
    survey.add(cleaner.tag(looked, {}))
    places.add([("rows", each.view.line) for each in looked])
    decisions = survey.decide(places)
    found = {name: (each.found, each.dropped, dict(each.labels)) for name, each in decisions.yields.items()}
    return found, decisions.dropped, decisions.roots, [each.example for each in looked]


def test_every_key_has_a_line():
    assert {f"clean.{key}" for key in CHANGES} == {key.path for key in KEYS if key.path.startswith("clean.")}


@pytest.mark.slow
@pytest.mark.parametrize("key", CHANGES)
def test_an_option_changes_what_is_found(key: str, tmp_path: Path):
    (tmp_path / "words.txt").write_text("frobni*\n")
    (tmp_path / "test.jsonl").write_text(json.dumps({"text": LONG[7]}))
    names = {"WORDS": str(tmp_path / "words.txt"), "TEST": str(tmp_path / "test.jsonl")}

    def filled(value: Any) -> Any:
        return [names.get(each, each) for each in value] if isinstance(value, list) else names.get(value, value)

    base, value = CHANGES[key]
    before = {name: filled(each) for name, each in base.items()}
    assert outcome(before, tmp_path / "a") != outcome(before | {key: filled(value)}, tmp_path / "b")
