"""The peers' virtual environment, outside of the checkout: TRL needs packages that distft does not."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from distft.config.errors import Unavailable
from distft.run import write_json

TRL = "trl==1.16.0"
_CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"
_MARKER = "peers.json"  # written when everything is installed
_SHOWN = ("torch", "transformers", "trl", "accelerate", "datasets", "numpy")
_VERSIONS = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"


def python_of(venv: Path) -> Path:
    """Returns the Python of the peers' environment, created if it is missing or incomplete.

    Unavailable with pip's last words when it cannot be made.
    """
    python, marker = venv / "bin" / "python", venv / _MARKER
    if marker.is_file() and json.loads(marker.read_text())["trl"] == TRL.partition("==")[2]:
        return python
    print(f"Installing {TRL} into {venv} (once, about 1.5 GB) ...", file=sys.stderr)
    shutil.rmtree(venv, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(venv)])
    # torch first and alone: where pip is offered several builds, the pinned version decides
    for package in ("torch", TRL):
        _run([str(python), "-m", "pip", "install", "--quiet", "--constraint", str(_CONSTRAINTS), package])
    write_json(marker, json.loads(_run([str(python), "-c", _VERSIONS, *_SHOWN])))
    return python


def versions(venv: Path) -> dict[str, str]:
    return json.loads((venv / _MARKER).read_text())


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise Unavailable(f"the peers' environment could not be created: {' '.join(command)}\n{last}")
    return done.stdout
