"""The wheel alone is enough: from an empty folder every shipped experiment composes."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from distft.paths import conf_dir

COMPOSE_ALL = """
import sys
from pathlib import Path
import distft.paths
from distft.config import compose
conf = distft.paths.conf_dir()
assert conf.is_relative_to(sys.argv[1]), conf
for experiment in sorted((conf / "experiment").glob("*.yaml")):
    compose([f"experiment={experiment.stem}", "data.train=rows.jsonl"])
    print(experiment.stem)
"""


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(checkout)]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_has_configs_and_data_files_and_no_tests(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    pages = [f"report/{name}" for name in ("look.css.jinja", "page.html.jinja", "sweep/page.html.jinja")]
    for name in ("conf/config.yaml", "slurm/README.md", "demo/demo.lock", "__main__.py", *pages):
        assert f"distft/{name}" in names
    assert not [name for name in names if name.startswith(("tests/", "runs/", "docs/"))]


@pytest.mark.slow
def test_every_experiment_composes_from_the_wheel(wheel: Path, tmp_path: Path):
    site, empty = tmp_path / "site", tmp_path / "empty"
    zipfile.ZipFile(wheel).extractall(site)
    empty.mkdir()
    (empty / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    command = [sys.executable, "-c", COMPOSE_ALL, str(site)]
    done = subprocess.run(
        command, cwd=empty, env={"PYTHONPATH": str(site)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == sorted(file.stem for file in (conf_dir() / "experiment").glob("*.yaml"))


def test_an_editable_install_reads_the_checkouts_yaml(checkout: Path, tmp_path: Path):
    command = [sys.executable, "-c", "import distft.paths; print(distft.paths.conf_dir())"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(checkout / "conf")
