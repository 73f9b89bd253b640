"""The real rank, plus the faults of its run.

The training code is not changed: the arguments of its loop are wrapped, and Python's audit events show which
files a save touches.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from distft import rank
from distft.rank import prepare  # noqa: F401  # as the real rank's
from distft.run import RunFolder, write_json
from tests.chaos.acts import act
from tests.chaos.faults import FULL_STEPS, NUMBERS, SLOW_SECONDS, SLOW_STEPS, Fault, folder_of, read


class Chaos:
    """The faults that are this rank's."""

    def __init__(self, run: RunFolder, attempt: int, number: int) -> None:
        self.run, self.attempt, self.rank = run, attempt, number
        self.folder = folder_of(run.path)
        self.faults = read(self.folder)
        self.mine = [fault for fault in self.faults if fault.rank == number]
        self.done = 0
        self.began: float | None = None  # the run's first step

    def at_start(self, moment: str) -> None:
        """Does the fault that comes next, if it is one of a start and this is its moment."""
        coming = next(
            (fault for fault in self.faults if fault.kind not in NUMBERS and not self._has_fired(fault)), None
        )
        if coming is not None and coming.rank == self.rank and coming.moment == moment:
            self.fire(coming)

    def at(self, moment: str, step: int) -> None:
        for fault in self.mine:
            comes = fault.moment == moment and fault.kind not in NUMBERS
            if comes and self._is_due(fault, step) and not self._has_fired(fault):
                self.fire(fault)

    def fire(self, fault: Fault) -> None:
        reported = {"time": time.time(), "attempt": self.attempt, "done": self.done, "port": os.environ["MASTER_PORT"]}
        write_json(self._fired(fault), reported)
        act(fault.kind, self.run, fault.number)

    def spoils(self, kind: str, step: int) -> bool:
        return any(fault.kind == kind and fault.step == step for fault in self.mine)

    def slow_down(self, step: int) -> None:
        if any(fault.kind == "slow" and fault.step <= step < fault.step + SLOW_STEPS for fault in self.mine):
            time.sleep(SLOW_SECONDS)

    def make_room(self, step: int) -> None:
        if any(fault.kind == "disk" and step == fault.step + FULL_STEPS for fault in self.faults):
            (self.run.path.parent / "filler").unlink(missing_ok=True)

    def note(self, step: int) -> None:
        """Records that a step was done, on rank 0."""
        self.done = step
        if self.rank == 0:
            line = {"attempt": self.attempt, "step": step, "time": time.time()}
            with (self.folder / "steps.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
        if self.began is None:
            with suppress(FileExistsError):
                (self.folder / "began").touch(exist_ok=False)
            self.began = (self.folder / "began").stat().st_mtime

    def _is_due(self, fault: Fault, step: int) -> bool:
        if fault.seconds:
            return self.began is not None and time.time() > self.began + fault.seconds
        return fault.step == step

    def _has_fired(self, fault: Fault) -> bool:
        return self._fired(fault).exists()

    def _fired(self, fault: Fault) -> Path:
        return self.folder / f"fired-{fault.number}.json"


class WrappedLoop:
    """The wrapped parts of one rank's training loop."""

    def __init__(self, chaos: Chaos) -> None:
        self.chaos, self.evaluating, self.probing = chaos, False, False

    def __call__(self, loop: Any) -> Any:
        """Runs the real loop with everything wrapped."""
        self.chaos.done = loop.settings.start_step
        engine = loop.engine
        self.forward, self.backward, self.update = engine.forward, engine.backward, engine.update
        engine.forward, engine.backward, engine.update = self._forward, self._backward, self._update
        sys.addaudithook(self._saving)
        measure = loop.evaluator.measure and self._evaluation(loop.evaluator.measure)
        evaluator = replace(loop.evaluator, measure=measure)
        return replace(loop, evaluator=evaluator, probe_memory=self._probe(loop.probe_memory)).run()

    def _forward(self, batch: Any, *given: Any) -> Any:
        step = self.chaos.done + 1
        if given or self.probing:  # of no step
            return self.forward(batch, *given)
        value, sums = self.forward(batch)
        if self.evaluating:
            self.chaos.at("evaluation", self.chaos.done)
        else:
            self.chaos.make_room(step)
            self.chaos.at("forward", step)
            self.chaos.slow_down(step)
            value = value * 50 if self.chaos.spoils("spike", step) else value
        return value, sums

    def _backward(self, value: Any, scale: float, last: bool) -> None:
        step = self.chaos.done + 1
        if self.probing:
            self.backward(value, scale=scale, last=last)
            return
        value.register_hook(lambda _: self.chaos.at("backward", step))
        if self.chaos.spoils("nan", step):
            value.register_hook(lambda gradient: gradient * float("nan"))
        self.backward(value, scale=scale, last=last)

    def _update(self, norm: float, max_norm: float | None) -> None:
        self.update(norm, max_norm)
        if self.probing:
            return
        self.chaos.note(self.chaos.done + 1)
        self.chaos.at("update", self.chaos.done)

    def _evaluation(self, evaluate: Callable[[], Any]) -> Callable[[], Any]:
        def watched() -> Any:
            self.evaluating = True
            metrics = evaluate()
            self.evaluating = False
            return metrics

        return watched

    def _probe(self, probe_memory: Callable[..., None]) -> Callable[..., None]:
        def unharmed(*given: Any) -> None:
            self.probing = True
            probe_memory(*given)
            self.probing = False

        return unharmed

    def _saving(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Comes where rank 0's finished folder is about to get its name, and where another rank opens its file."""
        if event != ("os.rename" if self.chaos.rank == 0 else "open") or not isinstance(arguments[0], str | Path):
            return
        path = Path(arguments[0])
        name = path.name if self.chaos.rank == 0 else path.parent.name
        if name.startswith(".step-") and name.endswith(".partial"):
            self.chaos.at("save", int(name.removeprefix(".step-").removesuffix(".partial")))


def main() -> None:
    attempt = int(sys.argv[sys.argv.index("--attempt") + 1])
    chaos = Chaos(RunFolder(Path(sys.argv[1])), attempt, int(os.environ["RANK"]))
    chaos.at_start("first line")
    find_work = rank.find_work

    def find(*given: Any) -> Callable[..., Any]:
        work = find_work(*given)
        from distft import worker

        if work is worker.train:
            work = partial(work, run_loop=WrappedLoop(chaos))
        chaos.at_start("loaded")

        def begin(*given: Any) -> None:
            chaos.at_start("joined")
            work(*given)

        return begin

    rank.find_work = find
    rank.main()


if __name__ == "__main__":
    main()
