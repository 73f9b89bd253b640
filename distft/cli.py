"""`distft COMMAND ...` is the same as `python -m distft.COMMAND ...`; without a command it lists them."""

import ast
import runpy
import sys
from pathlib import Path

COMMANDS = (
    "launch",
    "check",
    "plan",
    "advise",
    "prepare",
    "inspect_data",
    "evaluate",
    "generate",
    "chat",
    "export",
    "report",
    "verify_resume",
    "replay",
    "find_lr",
    "runs",
    "human_eval",
    "audit",
    "doctor",
    "config_schema",
    "prove",
    "demo",
)


def main() -> int:
    """Runs the command in the first argument; returns 2 when it does not exist."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if sys.argv[1] in ("--version", "-V", "version"):
        from distft.compat.reach import version_of

        print(f"distft {version_of('distft')}")
        return 0
    name = sys.argv[1].replace("-", "_")
    if name not in available():
        from distft.config.errors import did_you_mean, nearest

        meant = nearest(name, available())
        rest = did_you_mean(meant) or f"\n\n{usage()}"
        print(f"distft {sys.argv[1]}: no such command.{rest}", file=sys.stderr)
        return 2
    sys.argv[:2] = [f"distft {name}"]
    runpy.run_module(f"distft.{name}", run_name="__main__", alter_sys=True)
    return 0


def available() -> dict[str, Path]:
    """Returns the source of each command this version has."""
    here = Path(__file__).parent
    places = {name: (here / f"{name}.py", here / name / "__main__.py") for name in COMMANDS}
    return {name: path for name, paths in places.items() for path in paths if path.is_file()}


def usage() -> str:
    """Returns every command with the first line of its docstring, without importing it."""
    lines = ["distft COMMAND [KEY=VALUE ...]     (distft COMMAND --help lists its keys)", ""]
    for name, path in available().items():
        purpose = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]
        lines.append(f"  {name:14} {purpose}")
    return "\n".join(lines)
