"""Weights & Biases, online or offline.

Trap: the server drops steps that do not increase, and `wandb sync` of an offline run replaces earlier data. So each
attempt logs the whole run again under the same id, except the steps that an online run already has.
"""

import shutil
import uuid
from pathlib import Path
from typing import Any, Literal

from distft.run import BENCHMARK, RunFolder
from distft.trackers.contract import Results, Row, numbers, tables


class Wandb:
    """Logs under one id per run folder, kept in RUN/wandb/id: a resumed attempt continues the same curve."""

    def __init__(
        self, project: str = "distft", entity: str | None = None, mode: Literal["online", "offline"] = "online"
    ):
        self._project = project
        self._entity = entity
        self._mode: Literal["online", "offline"] = mode
        self._record: Any = None
        self._known_steps = -1
        self._last_step = 0
        self._folder = Path()

    def start(self, run: RunFolder) -> None:
        import wandb

        if self._mode == "online" and not wandb.login(prompt=False):  # with a prompt it would wait for input
            raise RuntimeError("no key: set WANDB_API_KEY, call `wandb login`, or set tracker.wandb.mode=offline")
        self._folder = run.path
        folder = run.path / "wandb"
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / "id"
        if not kept.is_file():
            kept.write_text(uuid.uuid4().hex[:16])
        if self._mode == "offline":
            for older in folder.glob("offline-run-*"):  # this attempt logs their rows again
                shutil.rmtree(older)
        self._record = wandb.init(
            project=self._project,
            entity=self._entity,
            mode=self._mode,
            name=run.path.name,
            id=kept.read_text(),
            resume="allow" if self._mode == "online" else None,
            reinit="create_new",  # one process tracks all jobs of a sweep
            dir=str(run.path),
            config=run.read_config(),
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_git=True,
                disable_code=True,
                x_disable_meta=True,  # the machine is in environment.json
                x_disable_stats=True,  # they would describe the launching process
                init_timeout=60,
            ),
        )
        self._known_steps = self._record.step - 1

    def log(self, row: Row) -> None:
        if row["split"] == BENCHMARK:  # measured later: it has an axis of its own
            self._record.define_metric(f"{BENCHMARK}/*", step_metric=f"{BENCHMARK}/step")
            self._record.log({f"{BENCHMARK}/step": row["step"], **numbers(row)}, step=self._last_step)
            return
        self._last_step = row["step"]
        if row["step"] > self._known_steps:
            self._record.log(numbers(row), step=row["step"])

    def results(self, results: Results) -> None:
        """Logs samples and evaluations as tables, the report as a page, and the files as one artifact."""
        import wandb

        shown: dict[str, wandb.Table | wandb.Html] = {}
        for name, rows in tables(results).items():
            shown[name] = wandb.Table(columns=[*rows[0]], data=[[*row.values()] for row in rows])
        for page in (file for file in results.files if file.suffix == ".html"):
            shown[page.stem] = wandb.Html(str(page), inject=False)
        if shown:
            self._record.log(shown, step=self._last_step)
        if results.files:
            artifact = wandb.Artifact(f"results-{self._record.id}", type="results")
            for file in results.files:
                artifact.add_file(str(file), name=file.relative_to(self._folder).as_posix())
            self._record.log_artifact(artifact)

    def finish(self, state: str) -> None:
        self._record.summary["state"] = state
        self._record.finish(exit_code=1 if state == "failed" else 0)
