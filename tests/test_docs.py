"""The commands in README and CONTRIBUTING work, and their links have targets."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

import distft
from tests.support.shell import shell

CHECKOUT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md"]
DOCS = sorted((CHECKOUT / "docs").rglob("*.md"))
_BLOCK = re.compile(r"(?:<!-- run: (?P<how>[^>]*) -->\n)?```bash\n(?P<text>.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One ```bash block, and the comment before it that says how it is run."""

    how: str
    text: str


def blocks(page: str) -> list[Block]:
    text = (CHECKOUT / page).read_text()
    found = [Block(match["how"] or "here", match["text"]) for match in _BLOCK.finditer(text)]
    assert len(found) == text.count("```bash"), f"{page}: a bash block that the pattern does not see"
    return found


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_every_command_shown_works(page: str, tmp_path: Path, demo_dir: Path):
    for block in blocks(page):
        if block.how.startswith("by "):
            continue
        done = shell(block.text, tmp_path, as_plan=block.how == "as plan")
        assert done.returncode == 0, f"{page}:\n{block.text}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_run_by_a_program(page: str):
    for block in blocks(page):
        assert block.how in ("here", "as plan") or block.how.startswith("by "), block.how


def test_ci_runs_what_the_docs_state():
    ci = (CHECKOUT / ".ci/run").read_text()
    for page in PAGES:
        for block in blocks(page):
            if block.how == "by .ci/run":
                for line in block.text.strip().splitlines():
                    assert line in ci, f"{page} shows `{line}` as run by .ci/run"


def test_every_make_target_shown_exists():
    makefile = (CHECKOUT / "Makefile").read_text()
    for page in PAGES:
        for target in re.findall(r"\bmake ([a-z]+)\b(?=[`\s])", " ".join(block.text for block in blocks(page))):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page}: make {target}"


@pytest.mark.parametrize("page", [*PAGES, *(str(path.relative_to(CHECKOUT)) for path in DOCS)])
def test_every_link_into_the_repository_has_a_target(page: str):
    folder = (CHECKOUT / page).parent
    for target in re.findall(r"\]\(([^)#:]+)\)", (CHECKOUT / page).read_text()):
        assert (folder / target).exists(), f"{page} links to {target}"


@pytest.mark.parametrize("page", sorted(path.name for path in (CHECKOUT / "docs/dev").glob("*.md")))
def test_every_test_that_proves_a_claim_exists(page: str):
    """A name after a file is one of that file; a name alone is one of any."""
    text, missing = (CHECKOUT / "docs/dev" / page).read_text(), []
    for file, name in re.findall(r"(?<![\w/])(tests/[\w/]+\.py)(?:::(\w+))?", text):
        source = (CHECKOUT / file).read_text() if (CHECKOUT / file).is_file() else ""
        missing += [f"{file}::{name}"] if not source or (name and f"def {name}(" not in source) else []
    known = "".join(path.read_text() for path in sorted((CHECKOUT / "tests").rglob("test_*.py")))
    missing += [name for name in re.findall(r"`(?:::)?(test_\w+)(?:\[[^`]*)?`", text) if f"def {name}(" not in known]
    assert not missing, f"docs/dev/{page} names {missing}"


def _exists(path: str) -> bool:
    """Looks from the checkout, and for short forms such as `data/packing.py` from the folders with Python files."""
    return any((CHECKOUT / root / path).exists() for root in (".", "distft", "tests", "benchmarks"))


@pytest.mark.parametrize("page", [*PAGES, *(str(path.relative_to(CHECKOUT)) for path in DOCS)])
def test_every_file_and_module_named_exists(page: str):
    text = (CHECKOUT / page).read_text()
    missing = [path for path in re.findall(r"(?<![\w/.-])(?:\w+/)+\w+\.py\b", text) if not _exists(path)]
    missing += [path for path in re.findall(r"(?<![\w/.-])distft(?:/\w+)+/?(?![\w./])", text) if not _exists(path)]
    for name in re.findall(r"(?<![\w/.-])distft((?:\.[a-z_]\w*)+)", text):
        parts = name[1:].split(".")
        if parts[0] in distft.__all__:
            continue
        of_module = [n for n in range(len(parts), 0, -1) if _is_module("/".join(["distft", *parts[:n]]))]
        if not of_module or (len(parts) > of_module[0] and not _defines(parts, of_module[0])):
            missing.append(f"distft{name}")
    assert not missing, f"{page} names {missing}"


def _is_module(path: str) -> bool:
    return (CHECKOUT / path).is_dir() or (CHECKOUT / f"{path}.py").is_file()


def _defines(parts: list[str], of_module: int) -> bool:
    path = CHECKOUT / "/".join(["distft", *parts[:of_module]])
    source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
    return re.search(rf"^(?:class |def )?{parts[of_module]}\b", source, re.MULTILINE) is not None


def test_the_level_table_of_contributing_is_the_one_enforced():
    from tests.test_imports import LEVELS

    shown = re.findall(r"^\| (\d) \| (`.*`) \|$", (CHECKOUT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert {int(level): set(re.findall(r"`(\w+)`", names)) for level, names in shown} == LEVELS


@pytest.mark.parametrize(("heading", "group"), [("Strategies", "strategy"), ("Tuning", "tuning")])
def test_every_strategy_and_tuning_is_in_the_readme(heading: str, group: str):
    choices = {path.stem for path in (CHECKOUT / "conf" / group).glob("*.yaml")}
    table = (CHECKOUT / "README.md").read_text().partition(f"### {heading}")[2].partition("\n#")[0]
    assert choices == set(re.findall(r"^\| `(\w+)` \|.*\|.*\|.*\|$", table, re.MULTILINE))
