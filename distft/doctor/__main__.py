"""`python -m distft.doctor [OVERRIDES] [out=FILE] [--json]`: diagnoses this machine, cluster and install.

Trap: on a broken install any import may fail, so checks that need torch run in their own process.
"""

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from rich.console import Console

from distft.config import Config, command, compose, help_text
from distft.config.command import JSON, keywords
from distft.doctor import network, slurm
from distft.doctor.finding import Check, Finding, run_check, show
from distft.doctor.node import local_checks
from distft.doctor.nodes import check_nodes
from distft.machines import node_range
from distft.paths import absolute
from distft.run import json_text, write_json
from distft.trackers.terminal import screen

OWN = {"out": "file that the findings are written to, as JSON"}
NO_ROWS = "data.train=not/read"  # like a hub id, so that no file is read or fetched


def main(argv: list[str]) -> int:
    """Returns 0 when no check found a problem, 1 otherwise; all findings are printed, and written to `out`."""
    as_json, argv = JSON in argv, [text for text in argv if text != JSON]
    mine = [text for text in argv if text.partition("=")[0] in OWN]
    own = keywords(mine, OWN, required=())
    overrides = [text for text in argv if text not in mine]
    if not any(text.startswith("data.train=") for text in overrides):
        overrides = [NO_ROWS, *overrides]
    config = compose(overrides)
    console = screen(sys.stderr if as_json else sys.stdout)
    findings = diagnose(config, console)
    if as_json:
        print(json_text([each.as_json() for each in findings], indent=2))
    else:
        show(findings, console)
    if "out" in own:
        write_json(absolute(own["out"]), [each.as_json() for each in findings])
    return 1 if any(each.state == "problem" for each in findings) else 0


def diagnose(config: Config, console: Console) -> list[Finding]:
    """Returns the findings of all checks in order: this machine, the cluster, its nodes."""
    launcher, (nodes, _) = config.launcher, node_range(config.launcher.nodes)  # of 2-4 nodes it needs 2
    folders = {"runs_dir": Path(config.runs_dir), "cache_dir": Path(config.cache_dir)}
    on_cluster = config.choices["launcher"] == "slurm"
    checks: dict[str, Check] = local_checks(folders, nodes)
    checks |= {"hub": network.check_hub, "all-reduce": network.check_all_reduce}
    if on_cluster:
        checks |= {"slurm": slurm.check_programs, "controller": slurm.check_controller}
        checks |= {"partition": partial(slurm.check_partitions, launcher)}
        checks |= {"node names": partial(slurm.check_node_names, launcher)}
    findings = [found for name, check in _shown(checks, console) for found in run_check(name, check)]
    reachable = all(each.state != "problem" for each in findings if each.check in ("slurm", "controller", "partition"))
    if on_cluster and reachable:
        with console.status("checks on the nodes ..."):
            findings += check_nodes(nodes, slurm.srun_options(launcher), folders)
    elif on_cluster:
        seen = "not checked, because SLURM has a problem here"
        findings.append(Finding("nodes", "warning", seen, "fix the problems below first"))
    return findings


def _shown(checks: dict[str, Check], console: Console) -> Iterator[tuple[str, Check]]:
    """Yields every check and shows its name on a terminal while it runs."""
    for name, check in checks.items():
        with console.status(f"{name} ..."):
            yield name, check


if __name__ == "__main__":
    command(main, help=help_text("doctor", [*OWN.items(), (JSON, "the findings as JSON")]))
