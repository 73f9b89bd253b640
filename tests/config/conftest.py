"""A valid config, which tests change."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows.jsonl, 40 rows."""
    folder = tmp_path_factory.mktemp("rows")
    (folder / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 40)
    return folder


@pytest.fixture
def right(rows: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Overrides that make a whole config on a machine without accelerators; the working folder has rows.jsonl."""
    monkeypatch.chdir(rows)
    for module in ("machines", "config.rules.run", "config.rules.model"):
        monkeypatch.setattr(f"distft.{module}.num_accelerators", lambda: 0)
    return ["model.tiny=true", "data.train=rows.jsonl"]
