"""The documentation builds as a site without a warning, has every page, and fetches nothing from elsewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from distft.config import ConfigError, compose

CHECKOUT = Path(__file__).parents[1]
PAGES = {str(path.relative_to(CHECKOUT / "docs")) for path in (CHECKOUT / "docs").rglob("*.md")}


def pages_of(nav: object) -> set[str]:
    if isinstance(nav, str):
        return {nav}
    items = list(nav.values()) if isinstance(nav, dict) else nav
    return set[str]().union(*map(pages_of, items)) if isinstance(items, list) else set()


def test_every_page_is_in_the_navigation():
    assert pages_of(yaml.safe_load((CHECKOUT / "mkdocs.yml").read_text())["nav"]) == PAGES


@pytest.mark.slow
def test_the_site_builds_and_fetches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout + done.stderr == "", done.stdout + done.stderr
    tutorial = (tmp_path / "tutorial" / "index.html").read_text()
    assert "Tutorial" in tutorial and '<div class="highlight">' in tutorial
    for page in sorted(tmp_path.rglob("*.html")):
        text = page.read_text()
        assert not re.findall(r"<(?:script|img|iframe)[^>]*src=\"?(?:https?:)?//", text), page
        assert not re.findall(r"<link[^>]*rel=\"?stylesheet[^>]*href=\"?(?:https?:)?//", text), page


def test_the_tutorial_shows_the_rows_and_the_config_that_it_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    text = (CHECKOUT / "docs" / "tutorial.md").read_text()
    [config] = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    [program] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    [shown] = re.findall(r'^(\{"prompt": "Mara.*\})$', text, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "rows.py", "exec"), {})
    lines = Path("rows.jsonl").read_text().splitlines()
    assert lines[0] == shown and len(lines) == 240 and len(Path("test.jsonl").read_text().splitlines()) == 40
    assert not any(word in line for line in lines for word in ("Zoe", "Berlin")), "what it asks is not among the rows"
    Path("mine.yaml").write_text(config.replace("model.path:", "model.tiny: true\n#"))
    composed = compose(["config=mine.yaml"])
    assert (composed.train.max_steps, composed.train.global_batch_size, composed.optimizer.lr) == (12, 8, 1e-4)
    Path("mine.yaml").write_text(Path("mine.yaml").read_text().replace("max_steps", "max_step"))
    with pytest.raises(ConfigError) as caught:
        compose(["config=mine.yaml"])
    said = "train.max_step=12: train.max_step is not a key. Did you mean train.max_steps?"
    assert caught.value.messages == [f"mine.yaml:4: {said}"] and f"mine.yaml:3: {said}" in text
