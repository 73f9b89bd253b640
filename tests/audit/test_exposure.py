"""A tiny model trained on planted canaries: the more often one was seen, the higher its exposure."""

from pathlib import Path

import pytest

from distft import inference
from distft.audit.exposure import make_canaries, plan_exposure, write_canaries
from distft.audit.job import SCORES, TEXTS, WORK, Questions, Results, read_results
from distft.data.example import Example, Segment
from distft.generate.job import freeze
from distft.generate.scored import write_texts
from distft.generate.settings import Settings
from distft.generate.source import Source, find_source
from tests.support.alone import alone
from tests.support.answered import make_run

pytestmark = pytest.mark.soak


def answered(folder: Path, source: Source, questions: Questions) -> Results:
    job = freeze(folder, source, [], Settings())
    write_texts(job.path / TEXTS, questions.texts)
    (job.path / SCORES).mkdir()
    with alone() as world:
        inference.score(job, 1, world)
    return read_results(job, source, questions)


def test_exposure_grows_with_the_repeats(tmp_path: Path) -> None:
    """After 120 of 280 steps: later each canary is known, and every exposure the largest that there is."""
    canaries = make_canaries(8)
    rows, _ = write_canaries(tmp_path / "canaries", canaries)
    more = [f"data.train={rows}", "data.eval=null", "train.max_steps=280", "train.epochs=100", "optimizer.lr=0.01",
            "train.global_batch_size=16", "checkpoint.every_steps=40", "checkpoint.keep=20"]  # fmt: skip
    run = make_run(tmp_path, *more)
    said: list[Results] = []
    part = None
    for at in ("base", "step-120"):
        found = find_source(str(run.path), at, {})
        source = Source(**{**found.__dict__, "config": found.config.changed({"work": WORK})})
        questions = Questions(source.render.tokenizer, source.positions)
        part = plan_exposure(
            canaries,
            lambda text, source=source: source.render(Example((Segment("prompt", text, False),))),
            questions,
            most=255,
        )
        said.append(answered(tmp_path / at, source, questions))
    assert part is not None
    once, four, sixteen = part.measures(*said)
    assert once.tuned is not None and four.tuned is not None and sixteen.tuned is not None
    assert sixteen.tuned > four.tuned > once.tuned, [each.line() for each in (once, four, sixteen)]
    assert sixteen.flag and sixteen.p is not None and sixteen.p < 0.01
