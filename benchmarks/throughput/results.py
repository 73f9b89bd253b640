"""Results over all repeats: medians with their range, and scaling efficiency."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measurement import spread, table
from benchmarks.throughput.measure import Numbers
from benchmarks.throughput.points import Point, Series
from benchmarks.throughput.settings import Variant


@dataclass
class Found:
    """The results of all points: numbers by repeat, or the reason of a failure."""

    runs: dict[Point, dict[int, Numbers]] = field(default_factory=dict)  # repeat -> numbers
    failed: dict[Point, str] = field(default_factory=dict)

    def values(self, point: Point, key: str) -> list[float]:
        return [run[key] for run in self.runs.get(point, {}).values() if run.get(key) is not None]


def efficiencies(series: Series, point: Point, found: Found) -> list[float]:
    """Returns, for each repeat, the rate of a process over that of one in the series' first point that was measured."""
    base = next((each for each in series.points if found.runs.get(each)), None)
    return [] if base is None else [rate * base.world / point.world for rate in _rates(found, point, base)]


def gains(point: Point, first: Variant, found: Found) -> list[float]:
    """Returns, for each repeat, the rate of a point over that of the same one with the settings of `first`."""
    return _rates(found, point, replace(point, variant=first))


def _rates(found: Found, point: Point, base: Point) -> list[float]:
    one, here = found.runs.get(base, {}), found.runs.get(point, {})
    return [here[i]["tokens_per_second"] / one[i]["tokens_per_second"] for i in sorted(one.keys() & here.keys())]


def rows_of(all_series: Sequence[Series], found: Found) -> list[dict[str, Any]]:
    """Returns a flat row for each point of each series: medians over the repeats."""
    return [_row(series, point, all_series[0].variant, found) for series in all_series for point in series.points]


def _row(series: Series, point: Point, first: Variant, found: Found) -> dict[str, Any]:
    rates, memory = found.values(point, "tokens_per_second"), found.values(point, "peak_memory_gib")
    helped, mfu = efficiencies(series, point, found), found.values(point, "mfu")
    gained = gains(point, first, found)
    return {
        "scaling": series.scaling,
        "strategy": point.strategy,
        "micro": point.micro,
        "settings": " ".join(point.variant),
        "nodes": point.nodes,
        "processes_per_node": point.processes,
        "processes": point.world,
        "global_rows": point.global_rows,
        "repeats": len(rates),
        "tokens_per_second": median(rates) if rates else None,
        "tokens_per_second_least": min(rates, default=None),
        "tokens_per_second_most": max(rates, default=None),
        "efficiency": median(helped) if helped else None,
        "efficiency_least": min(helped, default=None),
        "efficiency_most": max(helped, default=None),
        "of_first_settings": median(gained) if gained else None,
        "of_first_settings_least": min(gained, default=None),
        "of_first_settings_most": max(gained, default=None),
        "peak_memory_gib": max(memory, default=None),
        "mfu": median(mfu) if mfu else None,
        "failed": found.failed.get(point),
    }


def write_csv(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def page(all_series: Sequence[Series], found: Found, about: Mapping[str, Any]) -> str:
    """Returns the results as Markdown, a table for each kind of scaling."""
    hardware = about["on"]["hardware"]
    machine = [
        hardware["cpu"],
        f"{hardware['cores']} cores",
        f"{hardware['memory_gib']} GiB",
        *hardware["accelerators"],
    ]
    packages = about["on"]["packages"]
    versions = [f"{name} {packages[name]}" for name in ("torch", "transformers", "deepspeed") if name in packages]
    lines = [f"`{about['command']}`, commit `{about['code'] or 'unknown'}`, {about['on']['time'][:10]}"]
    lines.append("; ".join([", ".join(machine), ", ".join(versions), f"rows {about['rows']}"]))
    lines.append("Medians (least to most) over the repeats. Efficiency: tokens/s of a process over those of one in the")
    lines[-1] += " first line of the same strategy and micro size. Memory: of rank 0, the highest."
    if first := all_series[0].variant:
        lines[-1] += f" Times: tokens/s over those of `{' '.join(first)}`, repeat by repeat."
    for scaling in dict.fromkeys(series.scaling for series in all_series):
        lines.append(_title(scaling))
        lines.append(_table([series for series in all_series if series.scaling == scaling], found))
    if found.failed:
        lines.append("\n".join(f"- not measured: {point}: {reason}" for point, reason in found.failed.items()))
    lines.append("![throughput, efficiency and memory](throughput.png)")
    return "\n\n".join(line.rstrip("\n") for line in lines) + "\n"


def _title(scaling: str) -> str:
    same = {"weak": "the same rows for each process", "strong": "the same rows for all together"}[scaling]
    return f"## {scaling.capitalize()} scaling: {same}"


def _table(all_series: Sequence[Series], found: Found) -> str:
    head = ["strategy", "micro", "nodes x processes", "rows a step", "tokens/s", "efficiency", "MFU", "peak GiB"]
    first = all_series[0].variant
    head += ["settings", "times"] if first else []
    rows = []
    for series in all_series:
        for point in series.points:
            start = [point.strategy, str(point.micro), f"{point.nodes} x {point.processes}", f"{point.global_rows:,}"]
            if point in found.failed:
                rows.append([*start, "failed, see below", "-", "-", "-"])
                rows[-1] += [" ".join(point.variant), "-"] if first else []
                continue
            memory = found.values(point, "peak_memory_gib")
            rows.append(
                [
                    *start,
                    spread(found.values(point, "tokens_per_second")),
                    spread(efficiencies(series, point, found), "{:.2f}"),
                    spread(found.values(point, "mfu"), "{:.2f}"),
                    spread([max(memory)] if memory else [], "{:.2f}"),
                ]
            )
            rows[-1] += [" ".join(point.variant), spread(gains(point, first, found), "{:.2f}")] if first else []
    return table(head, rows)
