"""Results over all rounds: rates, memory, ratios by round, and agreement of the losses."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.measurement import spread, table
from benchmarks.peers.runs import Measured
from benchmarks.peers.settings import PEERS

Round = Sequence[Measured]

LOSS_STEPS = 5
LOSS_TOLERANCE = 1e-3


def names(rounds: Sequence[Round]) -> list[tuple[str, int]]:
    """Returns peer and number of processes of all runs, in their order."""
    return list(dict.fromkeys((run.peer, run.processes) for each in rounds for run in each))


def of(rounds: Sequence[Round], peer: str, processes: int) -> list[Measured]:
    return [run for each in rounds for run in each if (run.peer, run.processes) == (peer, processes)]


def rates(rounds: Sequence[Round]) -> str:
    """Returns a table of the peers: medians (minimum to maximum) over the rounds."""
    head = ["", "processes", "real tokens/s", "padding", "peak GiB of a process", "MFU", "matrix product, GFLOP/s"]
    rows = []
    for peer, processes in names(rounds):
        runs = of(rounds, peer, processes)
        paddings = [run.padding for run in runs if run.padding is not None]
        rows.append(
            [
                f"{peer}: {PEERS[peer].about}",
                str(processes),
                spread([run.tokens_per_second for run in runs]),
                spread(paddings, "{:.0%}"),
                spread([run.peak_gib for run in runs], "{:.1f}"),
                spread([run.mfu for run in runs], "{:.2f}"),
                spread([run.product_gflops for run in runs]),
            ]
        )
    return table(head, rows)


def ratios(rounds: Sequence[Round]) -> dict[str, dict[str, list[float]]]:
    """Returns distft / peer in each round that has both: `tokens_per_second`, and it over the product's, and memory.

    `mfu` is the ratio of rates, each over the matrix product just before and after it: a machine that slows down
    between two runs is in the one and not in the other.
    """
    measures: dict[str, Callable[[Measured], float]] = {
        "tokens_per_second": lambda run: run.tokens_per_second,
        "mfu": lambda run: run.tokens_per_second / run.product_gflops,
        "peak_gib": lambda run: run.peak_gib,
    }
    found: dict[str, dict[str, list[float]]] = {}
    for peer, processes in names(rounds):
        both = list(_pairs(rounds, peer, processes))
        if peer != "distft" and both:
            values = {key: [value(ours) / value(theirs) for ours, theirs in both] for key, value in measures.items()}
            found[f"{peer}, {processes} process{'es' * (processes > 1)}"] = values
    return found


def ratio_table(found: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    head = ["distft /", "real tokens/s", "the same over the matrix product", "peak memory of a process"]
    rows = [[peer, *(spread(values, "{:.2f}") for values in each.values())] for peer, each in found.items()]
    return table(head, rows)


def loss_gaps(rounds: Sequence[Round]) -> dict[str, float]:
    """Returns the largest difference of a loss from distft's on the fewest processes that it was measured on, of peers
    that read the same rows a step."""
    gaps: dict[str, float] = {}
    fewest = min((processes for peer, processes in names(rounds) if peer == "distft"), default=0)
    for peer, processes in names(rounds):
        if not PEERS[peer].reads_in_order or (peer, processes) == ("distft", fewest):
            continue
        for ours, theirs in _pairs(rounds, peer, processes, ours=fewest):
            first = zip(ours.losses[:LOSS_STEPS], theirs.losses[:LOSS_STEPS], strict=True)
            name = f"{peer}, {processes} process{'es' * (processes > 1)}"
            gaps[name] = max(gaps.get(name, 0.0), *(abs(a - b) for a, b in first))
    return gaps


def loss_table(gaps: Mapping[str, float]) -> str:
    rows = [[peer, f"{gap:.1e}", "yes" if gap <= LOSS_TOLERANCE else "**no**"] for peer, gap in gaps.items()]
    return table(["", f"largest difference of the first {LOSS_STEPS} losses", f"at most {LOSS_TOLERANCE:g}"], rows)


def settings_of(rounds: Sequence[Round]) -> dict[str, Any]:
    """Returns the settings that each peer reported, from the first round that has them."""
    return {f"{peer}, {processes}": of(rounds, peer, processes)[0].settings for peer, processes in names(rounds)}


def page(rounds: Sequence[Round], about: Mapping[str, Any], command: str, failed: Mapping[str, str]) -> str:
    """Returns the results as Markdown."""
    hardware = about["on"]["hardware"]
    lines = [f"`{command}`, commit `{about['code'] or 'unknown'}`, {about['on']['time'][:10]}"]
    lines.append(
        f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB; "
        + ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    )
    lines.append(f"Medians (least to most) of {len(rounds)} rounds. Rows of each round, fp32, 8 rows a step:")
    lines.append(rows_table(about["rows"]) + "\n" + rates(rounds))
    lines.append("Ratios round by round, both of the same number of processes:")
    lines.append(ratio_table(ratios(rounds)))
    lines.append("Losses against distft's on the fewest processes, of those that read the same rows in each step:")
    lines.append(loss_table(loss_gaps(rounds)))
    lines.append("Settings as the running programs reported them:")
    lines.append(table(["", "settings"], [[name, f"`{settings}`"] for name, settings in settings_of(rounds).items()]))
    if any(run.mfu > 1 for each in rounds for run in each):
        lines.append("**An MFU above 1: the machine was busy while its matrix product was measured. Measure again.**")
    lines += [f"Failed: {name}: {reason}" for name, reason in failed.items()]
    return "\n\n".join(line.rstrip("\n") for line in lines) + "\n"


def rows_table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ["rows", "tokens: mean", "median", "longest", "trained", "sha256"]
    seen = {each["sha256"]: each for each in rows}
    return table(
        head,
        [
            [
                str(each["rows"]),
                f"{each['mean_tokens']:.0f}",
                f"{each['median_tokens']:.0f}",
                str(each["longest_tokens"]),
                f"{each['trained']:.1%}",
                each["sha256"][:16],
            ]
            for each in seen.values()
        ],
    )


def _pairs(
    rounds: Sequence[Round], peer: str, processes: int, ours: int | None = None
) -> Iterator[tuple[Measured, Measured]]:
    """Yields distft and peer of each round that has both; distft on as many processes, or on `ours`."""
    for each in rounds:
        found = {(run.peer, run.processes): run for run in each}
        mine, other = found.get(("distft", ours or processes)), found.get((peer, processes))
        if mine and other:
            yield mine, other
