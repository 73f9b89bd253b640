"""The audit of a model: base and tuned answer the same questions, and each part compares what they said."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distft.audit.answers import plan_answers, plan_slices
from distft.audit.counterfactual import HeldOut, plan_swaps
from distft.audit.exposure import Canary, plan_exposure, plan_verbatim
from distft.audit.job import Part, Questions, Results, ask
from distft.audit.licences import Use, licences, of_folder
from distft.audit.measures import Measure
from distft.audit.sets import plan_sets
from distft.audit.swaps import load_pairs
from distft.audit.templates import plan_templates
from distft.audit.terms import Terms
from distft.audit.toxicity import Toxicity, Words
from distft.config.data import source_items
from distft.data.example import Example, Segment
from distft.data.shards import Rows
from distft.generate.prompts import cut
from distft.generate.source import BASE, Source, find_text_source

MOST_ROWS = 400  # held-out rows that are scored
ANSWERED = 64  # held-out prompts that are answered
TOKENS = 32  # of an answer


@dataclass(frozen=True)
class Scope:
    """How much of a model is audited.

    canaries: those planted in its training rows. toxicity: of answers; None: the words among the terms.
    """

    terms: Terms
    use: Use
    rows: int = MOST_ROWS
    answered: int = ANSWERED
    tokens: int = TOKENS
    canaries: Sequence[Canary] = ()
    sets: Sequence[str] = ()
    toxicity: Toxicity | None = None


def find_sources(place: str, at: str | None, changes: Mapping[str, str]) -> tuple[Source, Source]:
    """Returns base and tuned model of a run; ConfigError where there is none."""
    return find_text_source(place, BASE, changes), find_text_source(place, at, changes)


def plan_parts(source: Source, scope: Scope) -> tuple[Questions, list[Part], list[str]]:
    """Returns the questions, the parts that asked them, and notes on parts without rows."""
    questions = Questions(source.render.tokenizer, source.positions)
    notes: list[str] = []
    parts: list[Part] = list(plan_templates(scope.terms, questions))
    rows = held_out_rows(source, scope.rows)
    if rows:
        pairs = load_pairs()
        parts += [
            plan_swaps(rows, pairs, questions, scope.rows, scope.tokens),
            plan_slices(rows, questions, scope.terms),
            plan_answers(
                rows, questions, scope.terms, scope.answered, scope.tokens, scope.toxicity or Words(scope.terms)
            ),
        ]
    else:
        notes.append("no held-out rows: swaps, slices and answers are not measured. Try: a run with data.eval")
    trained = training_rows(source)
    if trained is not None:
        held_out = source.held_out
        parts.append(plan_verbatim(_tokens(trained), _tokens(held_out) if held_out is not None else (), questions))
    else:
        notes.append("the prepared rows are gone: verbatim memorisation is not measured")
    if scope.canaries:
        parts.append(
            plan_exposure(
                scope.canaries, lambda text: source.render(Example((Segment("prompt", text, False),))), questions
            )
        )
    else:
        notes.append("exposure is not measured: no canaries were planted. Try: distft audit plant=10 out=DIR")
    parts += plan_sets(scope.sets, source.config.cache_dir, questions)
    return questions, parts, notes


def held_out_rows(source: Source, most: int) -> list[HeldOut]:
    """Returns the first held-out rows as text."""
    if source.held_out is None:
        return []
    found = []
    for number in range(min(most, len(source.held_out))):
        ids, begins = cut(source.held_out[number])
        found.append(HeldOut(*(source.render.decode(part, special=True) for part in (ids[:begins], ids[begins:]))))
    return found


def training_rows(source: Source) -> Rows | None:
    """Returns the prepared training rows; None where they are gone."""
    folder = Path(source.plan.data_dir) if source.plan.data_dir else None
    return Rows(folder, "train") if folder is not None and folder.is_dir() else None


def _tokens(rows: Rows):
    return (rows[i].input_ids.tolist() for i in range(len(rows)))


def audit_model(base: Source, tuned: Source, scope: Scope) -> tuple[list[Measure], list[str]]:
    """Returns the measures of all parts, and notes."""
    questions, parts, notes = plan_parts(tuned, scope)
    said = [ask(source, questions, scope.tokens) for source in (base, tuned)]
    notes.append(f"{len(questions.texts):,} texts scored and {len(questions.prompts):,} prompts answered, twice")
    return compare(parts, *said) + _licences(tuned, scope.use), notes


def compare(parts: Sequence[Part], base: Results, tuned: Results) -> list[Measure]:
    return [measure for part in parts for measure in part.measures(base, tuned)]


def _licences(source: Source, use: Use) -> list[Measure]:
    items = source_items(source.config.data.train)
    folder = Path(source.plan.model_dir) if source.plan.model_dir else None
    return licences(items, [source.plan.rows] * len(items), use, of_folder(folder))
