"""Series of tiny runs in one process group, which is restarted without a case that crashed it.

Importing torch takes longer than training such a case, so many cases share a process.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from distft.config import ConfigError
from distft.prove import jobs
from distft.prove.place import Child, Place
from distft.prove.proof import Line, failed, not_run
from distft.run import RunFolder, write_json

STEPS = 4
# A case without progress for this long counts as hanging; compiling takes minutes on a busy CPU.
_SILENT_SECONDS, _SILENT_SECONDS_COMPILING = 120.0, 300.0

ARCHITECTURE = {
    "vocab_size": 49152, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True, "max_position_embeddings": 2048,
    "rope_scaling": None, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LENGTHS = (5, 44, 17, 31, 2, 60, 9, 23)
ROWS = jobs.RandomRows(LENGTHS, rows=96, vocabulary=ARCHITECTURE["vocab_size"], held_out=8)
COMMON = (
    "model=llama3_8b", "strategy=ddp", "train.epochs=null", f"train.max_steps={STEPS}", "schedule=constant",
    "optimizer.lr=1e-3",
)  # fmt: skip
PACKED = ("data.packing=true", "train.micro_batch_tokens=128", "data.max_length=128")
REFERENCE = "reference"


def batch_of(place: Place, world: int | None = None, packed: bool = False) -> tuple[str, ...]:
    """Returns overrides of one global batch for any number of processes, as two micro-batches per process.

    world: processes; None: as many as the machine runs by default. packed: micro-batches are counted in tokens.
    """
    most = place.machine.world
    rows = 8 if 8 % (2 * most) == 0 else 4 * most
    micro = () if packed else (f"train.micro_batch_size={rows // (2 * (world or most))}",)
    return (f"train.global_batch_size={rows}", *micro)


@dataclass(frozen=True)
class Case:
    """One tiny run, and the check that it serves."""

    check: str
    overrides: tuple[str, ...]
    precision: str
    kind: str = "train"
    reference: str = REFERENCE

    @property
    def compiles(self) -> bool:
        return "train.compile=true" in self.overrides

    @property
    def run_name(self) -> str:
        return self.check.replace(".", "-")


class Series:
    """Cases that one process group runs in sequence; a case that crashes it is left out after a restart."""

    def __init__(
        self, place: Place, name: str, given: Sequence[Case], world: int | None = None,
        variables: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.place, self.cases, self.variables = place, list(given), variables
        self.attempt, self.fresh, self.heard = 0, 0, 0.0
        self.child: Child | None = None
        self.errors: dict[str, str] = {}
        self.run = RunFolder(place.work / "runs" / name)
        frozen = [each for each in self.cases if self._freeze(each, world)]
        if frozen:
            first = self.run_of(frozen[0])
            self.run.path.mkdir(parents=True, exist_ok=True)
            self.run.write_plan(first.read_plan())
            text = first.config.read_text().replace("distft.worker.train", "distft.prove.tiny.work")
            self.run.config.write_text(text)
            listed = [{"name": c.check, "kind": c.kind, "run": str(self.run_of(c).path)} for c in frozen]
            write_json(self.run.path / jobs.CASES, listed)
            self._begin()

    def _freeze(self, case: Case, world: int | None) -> bool:
        """Freezes the run of a case; returns False, with the error recorded, when its config is refused."""
        batch = batch_of(self.place, world, packed=PACKED[0] in case.overrides)
        given = (*COMMON, *batch, *case.overrides, f"train.precision={case.precision}")
        try:
            jobs.freeze(self.place, case.run_name, "distft.worker.train", given, ROWS, ARCHITECTURE, world)
        except ConfigError as error:
            self.errors[case.check] = str(error)
        return case.check not in self.errors

    def run_of(self, case: Case) -> RunFolder:
        return RunFolder(self.run.path.with_name(case.run_name))

    def _begin(self) -> None:
        self.attempt += 1
        self.heard = time.monotonic()
        self.child = jobs.start(self.place, self.run, self.attempt, self.variables)

    @property
    def done(self) -> dict[str, jobs.Result]:
        """The results of the cases that have ended, with their run folders."""
        runs = {case.check: str(self.run_of(case).path) for case in self.cases}
        ended = [each for each in jobs.results_of(self.run) if each["state"] != "begun"]
        lost: dict[str, jobs.Result] = {
            name: {"state": "failed", "error": error} for name, error in self.errors.items()
        }
        return {**{each["name"]: {**each, "run": runs[each["name"]]} for each in ended}, **lost}

    @property
    def has_ended(self) -> bool:
        """Whether all cases are done; restarts the process group when a case has crashed or hangs."""
        if self.child is None:
            return True
        written = list(jobs.results_of(self.run))
        if len(written) != self.fresh:
            self.fresh, self.heard = len(written), time.monotonic()
        compiling = {case.check for case in self.cases if case.compiles}
        at = written[-1]["name"] if written else ""
        patience = _SILENT_SECONDS_COMPILING if at in compiling else _SILENT_SECONDS
        code = self.child.poll()
        hangs = code is None and time.monotonic() - self.heard > patience
        if code is None and not hangs:
            return False
        if hangs:
            self.child.kill()
        ended = self.done
        if len(ended) == len(self.cases):
            return True
        begun = [each["name"] for each in written if each["state"] == "begun" and each["name"] not in ended]
        text = f"no progress in {patience:g} s" if hangs else jobs.why(self.run, self.attempt, self.child)
        if not begun:  # the failure is not of a case: another start would fail too
            self.errors |= {case.check: text for case in self.cases if case.check not in ended}
            return True
        self.errors[begun[-1]] = text
        if len(self.done) == len(self.cases):
            return True
        self._begin()
        return False


def follow(place: Place, series: Sequence[Series]) -> None:
    """Returns when all series have ended or no time is left; then kills those that still run."""
    going = list(series)
    while going and place.seconds_left > 0:
        going = [each for each in going if not each.has_ended]
        time.sleep(0.1)
    for each in series:
        if each.child is not None:
            each.child.kill()


WORDS = ("resume",)
LEAST_SECONDS = 25.0
STRATEGIES = ("ddp", "zero2")
KILLS = {"full": ("[accumulation,save]", "[3,4]"), "small": ("[save]", "[4]")}  # moments, steps
_STEPS = 6
_PARALLEL_CORES = 8  # with at least as many, both strategies are tested at the same time


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
    """Returns whether every number of the resumed run is bit-equal to that of the uninterrupted one."""
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
        return failed(name, f"equal within the noise of two runs, not bit-equal: {noisy[-1].strip('│ ')}; {text}")
    return Line(name, "pass", "bit-equal", expected="bit-equal", detail={"text": text})
