"""What one steady step does, operation by operation: a trace of every process, and a table of the dearest."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity
from torch.profiler import profile as recorded

from distft.runtime.process_group import World

DEAREST = 10
_WARM_UP = 2  # steps before the one that is recorded


class Profile:
    """Records the third step that a process makes, into `folder`."""

    def __init__(self, folder: Path, start_step: int, world: World) -> None:
        self.folder, self.world = folder, world
        self.at = start_step + _WARM_UP + 1

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Records what is done within, where it is the step; writes rank-R.json.gz, and rank 0 step-N.md."""
        if step != self.at:
            yield
            return
        on_device = self.world.device.type != "cpu"
        activities = [ProfilerActivity.CPU, *([getattr(ProfilerActivity, self.world.device.type.upper())] * on_device)]
        with recorded(activities=activities) as profiler:
            yield
        self.folder.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self.folder / f"rank-{self.world.rank}.json.gz"))
        if self.world.is_first:
            (self.folder / f"step-{step}.md").write_text(table(profiler.key_averages(), step, on_device))


def table(operations: Any, step: int, on_device: bool) -> str:
    """Returns the dearest operations by their own time, with their share of all operations' time."""
    own = "self_device_time_total" if on_device else "self_cpu_time_total"  # microseconds
    called = [each for each in operations if each.device_type.name == "CPU"]  # kernels are listed once more
    spent = sorted(((getattr(each, own), each) for each in called), key=lambda pair: -pair[0])
    total = sum(time for time, _ in spent) or 1.0
    where = "its device" if on_device else "the CPU"
    lines = [
        f"The {DEAREST} dearest operations of step {step} on rank 0, by time on {where} without what they call",
        "",
        "| operation | calls | seconds | share |",
        "|---|---|---|---|",
        *(f"| {each.key} | {each.count:,} | {time / 1e6:.3f} | {time / total:.1%} |" for time, each in spent[:DEAREST]),
        "",
        f"All operations: {total / 1e6:.3f} s. The whole trace: rank-0.json.gz (chrome://tracing, ui.perfetto.dev)",
    ]
    return "\n".join(lines) + "\n"
