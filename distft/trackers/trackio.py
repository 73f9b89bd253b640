"""Trackio: runs in a local store that `trackio show` opens in the browser, without an account.

Each attempt logs the whole run again in place of what earlier ones logged, so each step is there once.
"""

import uuid
from typing import Any

from distft.compat.trackio import is_installed, open_record
from distft.run import RunFolder
from distft.trackers.contract import Results, Row, numbers, tables


class Trackio:
    """Logs under one id per run folder, kept in RUN/trackio/id: a resumed attempt continues the same curve."""

    def __init__(self, project: str = "distft") -> None:
        if not is_installed():
            raise ValueError("trackio is not installed. Try: pip install 'distft[trackio]'")
        self._project = project
        self._record: Any = None
        self._last_step = 0

    def start(self, run: RunFolder) -> None:
        kept = run.path / "trackio" / "id"
        if not kept.is_file():
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(uuid.uuid4().hex)
        self._run = run
        self._record = open_record(self._project, run.path.name, kept.read_text(), run.read_config())

    def log(self, row: Row) -> None:
        if values := numbers(row):
            self._last_step = row["step"]
            self._record.log(values, step=row["step"])

    def results(self, results: Results) -> None:
        """Logs samples and evaluations as tables, the report as a page, and the files as one artifact."""
        import trackio

        shown: dict[str, object] = {}  # tables and pages, by name
        for name, rows in tables(results).items():
            shown[name] = trackio.Table(columns=[*rows[0]], data=[[*row.values()] for row in rows])
        for page in (file for file in results.files if file.suffix == ".html"):
            shown[page.stem] = trackio.Html(str(page), inject=False)
        if shown:
            self._record.log(shown, step=self._last_step)
        if results.files:
            artifact = trackio.Artifact(f"results-{self._record.id}", type="results")
            for file in results.files:
                artifact.add_file(file, name=file.relative_to(self._run.path).as_posix())
            self._record.log_artifact(artifact)

    def finish(self, state: str) -> None:
        self._record.finish()
