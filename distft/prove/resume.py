"""Runs that are killed by SIGKILL and resumed, held bit for bit against runs that were not: `distft verify_resume`."""

import json
from collections.abc import Iterator, Sequence

from distft.prove.place import Child, Place
from distft.prove.proof import Line, failed, not_run
from distft.prove.series import batch_of

WORDS = ("resume",)
LEAST_SECONDS = 25.0
STRATEGIES = ("ddp", "zero2")
KILLS = {"full": ("[accumulation,save]", "[3,4]"), "small": ("[save]", "[4]")}  # moments, steps
_STEPS = 6
_PARALLEL_CORES = 8  # from so many on, both strategies are proven at the same time


def lines_of(place: Place, words: Sequence[str]) -> list[str]:
    return [f"resume.{strategy}" for strategy in STRATEGIES]


def run(place: Place, words: Sequence[str]) -> Iterator[Line]:
    rows = place.work / "rows" / "text.jsonl"
    rows.parent.mkdir(parents=True, exist_ok=True)
    texts = [{"prompt": f"{number} and {number} is", "completion": str(2 * number)} for number in range(64)]
    rows.write_text("".join(json.dumps(text) + "\n" for text in texts))
    if place.machine.cores >= _PARALLEL_CORES:
        started = [(strategy, start(place, strategy)) for strategy in STRATEGIES]
        yield from (judge(place, *each) for each in started)
    else:
        yield from (judge(place, strategy, start(place, strategy)) for strategy in STRATEGIES)


def start(place: Place, strategy: str) -> Child:
    """Starts the command for one strategy on this machine's devices."""
    kills, steps = KILLS[place.machine.shapes]
    overrides = [
        f"kills={kills}", f"at={steps}", f"out={place.work / 'runs' / f'resume-{strategy}'}",
        f"cache_dir={place.work / 'cache'}", f"strategy={strategy}", "model=llama3_8b", "model.tiny=true",
        f"data.train={place.work / 'rows' / 'text.jsonl'}", "data.eval=0.2", "eval.every_steps=3",
        f"train.max_steps={_STEPS}", "train.epochs=null", *batch_of(place),
        "checkpoint.every_steps=2", "checkpoint.background=true", "train.deterministic=true",
        f"launcher.processes_per_node={place.machine.world}",
    ]  # fmt: skip
    return place.start(f"resume-{strategy}", "distft.verify_resume", *overrides)


def judge(place: Place, strategy: str, child: Child) -> Line:
    """Returns whether every number of the resumed run is that of the uninterrupted one."""
    name = f"resume.{strategy}"
    code = child.wait(place.seconds_left)
    if code is None:
        return not_run(name, "no time was left")
    said = child.log.read_text(errors="replace")
    table = said[said.rfind("Resumed and uninterrupted") :] if code in (0, 1) else ""
    noisy = [line for line in table.splitlines() if "│" in line and "bit-equal" not in line]
    if code != 0 or not table:
        return failed(name, f"exit code {code}: {child.last_words(4)}"[:500])
    moments, steps = KILLS[place.machine.shapes]
    where = f"killed in {moments} of steps {steps}"
    text = f"rows, losses, norms, rates, weights and moments of {_STEPS} steps, {where}, against a run without a kill"
    if noisy:
        return failed(name, f"equal within the noise of two runs, and not bit for bit: {noisy[-1].strip('│ ')}; {text}")
    return Line(name, "pass", "bit-equal", expected="bit-equal", detail={"text": text})
