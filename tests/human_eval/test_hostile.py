"""Hostile prompts and answers run no script, fetch nothing, break no layout and run no formula."""

import csv
import io
import json
from collections.abc import Iterator
from html.parser import HTMLParser

import pytest

from distft.human_eval.__main__ import main
from distft.human_eval.answers import shown_text
from distft.human_eval.pages import Pages, votes_csv
from distft.human_eval.study import Settings, Study
from distft.human_eval.votes import Vote
from tests.support.browser import Browser
from tests.support.studies import Served

RUN = "document.title='owned'"
HOSTILE = [
    f"<script>{RUN}</script>", f"<img src=x onerror={RUN}>", f"<svg onload={RUN}>",
    f"<svg><script>{RUN}</script></svg>",
    f"<body onload={RUN}>", f"<iframe srcdoc='<script>parent.{RUN}</script>'></iframe>",
    f"<details open ontoggle={RUN}>x",
    f"<input autofocus onfocus={RUN}>", f"<video><source onerror={RUN}></video>",
    f"<math><mtext></p><img src onerror={RUN}>",
    f"<a href='javascript:{RUN}'>x</a>", f"[x](javascript:{RUN})", f"[x](JaVaScRiPt&colon;{RUN})",
    "[x](data:text/html,x)",
    f"![x](x\" onerror=\"{RUN})", "![x](https://evil.example/pixel.png)", f"<https://evil.example/{RUN}>",
    f"[x]: javascript:{RUN}\n[x]", f"```<script>{RUN}</script>\n<script>{RUN}</script>\n```",
    f"`<img src=x onerror={RUN}>`",
    "<style>*{display:none!important}</style>", "<style>@import 'https://evil.example/x.css'</style>",
    "<link rel=stylesheet href=https://evil.example/x.css>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<base href=https://evil.example/>", "<form action=https://evil.example><button>Vote</button></form>",
    "</div></section></main><h1>Done</h1>", "--></style></script><script>document.title='owned'</script>",
    "<object data=https://evil.example/x></object>", "<embed src=https://evil.example/x>", "<marquee>x</marquee>",
    f"{{{{ config }}}} {{{{ ''.__class__ }}}} ${{{RUN}}}", "{% raw %}{{ 7*7 }}{% endraw %} #{7*7} <%= 7*7 %>",
    "<div style='position:fixed;inset:0;background:red;z-index:9999'>x</div>",
    "<b id=ballot>x</b><b id=status name=send>y</b>",
    "\u202egnp.exe\u202d \u2066x\u2067", "\u202e" * 2000, "مرحبا بالعالم " * 50, "\u200b\u200d\ufeff" * 3000 + "x",
    "Z" + "\u0301\u0489\u0336" * 4000, "x" * 100_000, "a " * 50_000, "[" * 50_000, "> " * 3000 + "deep",
    "- " * 3000 + "deep",
    "|a" * 500 + "|\n" + "|-" * 500 + "|\n" + "|wide" * 500 + "|", "```\n" + "y" * 20_000 + "\n```", "*_" * 20_000,
    "\0\x1b[2J\x07\ud800\udfff", "=cmd|' /C calc'!A0", "&lt;script&gt;&#x3C;script&#x3E;", "\n" * 3000 + "far below",
]  # fmt: skip


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("hostile")
    prompts = [f"{number}: {text}" for number, text in enumerate(HOSTILE)]
    rows = [[{"prompt": prompt, "completion": text} for prompt, text in zip(prompts, side, strict=True)]
            for side in (HOSTILE, HOSTILE[::-1])]  # fmt: skip
    files = []
    for name, side in zip("ab", rows, strict=True):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in side))
        files.append(str(folder / f"{name}.jsonl"))
    words = [f"study={folder / 'study'}", f"answers={json.dumps(files)}", "raters=1", "practice=none"]
    assert main(["create", *words, "repeat=0", "attention=0"]) == 0
    study = Study(folder / "study")
    with Served(study) as served:
        yield served


@pytest.mark.slow
def test_hostile_answers_run_no_script_and_break_no_layout(hostile: Served, require):
    assert len(HOSTILE) >= 50
    path, seen = hostile.path(), 0
    hostile.post(f"{path}/consent", {})
    with Browser(require("chromium")) as browser:
        while (item := hostile.next_item()) is not None:
            browser.open(hostile.address + path)
            assert browser.evaluate("document.title") == "Which answer is better?"
            for width in (1280, 390):
                browser.size(width)
                wide = browser.evaluate("document.documentElement.scrollWidth")
                assert wide <= width, browser.evaluate("document.querySelector('.pair').innerText")[:200]
                shown = "(() => { const r = document.querySelector('button[value=a]').getBoundingClientRect();"
                shown += "const e = document.elementFromPoint(r.x + r.width / 2, r.y + r.height / 2);"
                shown += (
                    "return r.top >= 0 && r.bottom <= innerHeight && !!e && e.closest('button').value === 'a'; })()"
                )
                assert browser.evaluate(shown), "the buttons are not on the screen"
                boxes = "[...document.querySelectorAll('.pair .card')].map(e => { const r = e.getBoundingClientRect();"
                sizes = browser.evaluate(f"{boxes} return [r.width, r.height, r.x]; }})")
                assert sizes[0][0] == sizes[1][0] and (width < 700) == (sizes[0][2] == sizes[1][2])
                assert width < 700 or sizes[0][1] == sizes[1][1]
            assert hostile.post(f"{path}/vote", {"item": item, "choice": "tie"}).status == 200
            seen += 1
        assert seen == len(HOSTILE) and browser.problems == []
        foreign = [address for address in browser.requests if not address.startswith(hostile.address)]
        assert foreign in ([], ["about:blank"])


def pages() -> Pages:
    empty = dict.fromkeys(("title", "consent", "instructions", "contact", "pay", "ethics"), "")
    numbers = {"seed": 0, "raters": 1, "overlap": 1, "min_attention": 0, "min_seconds": 0, "planned_votes": 1}
    rest = {"type": "pairwise", "criteria": (), "reasons": (), "items_sha256": "", "created": "", "distft": ""}
    return Pages(Settings(**empty, **numbers, **rest), {})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_only_plain_tags_without_attributes_come_out(number: int):
    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag not in ("script", "style", "img", "a", "svg", "iframe", "form", "input", "button", "b", "div")
            assert attrs == [] or (tag, attrs) == ("p", [("class", "empty")])

    Tags().feed(pages().markdown(shown_text(HOSTILE[number], None), breaks=True))


def test_a_link_keeps_its_address_in_sight():
    made = str(pages().markdown("See [the docs](https://example.org/x) and ![a picture](https://example.org/y.png)."))
    assert "[the docs](https://example.org/x)" in made and "![a picture](https://example.org/y.png)" in made


def test_markdown_code_and_tables_are_shown():
    made = str(pages().markdown("**b**\n\n```python\nprint(1 < 2)\n```\n\n|x|y|\n|-|-|\n|1|2|\n\n1. one\n2. two"))
    for part in ("<strong>b</strong>", "<code>print(1 &lt; 2)\n</code>", "<td>1</td>", "<li>two</li>"):
        assert part in made
    assert "(no text)" in pages().markdown("  \n")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "=cmd|' /C calc'!A0"])
def test_a_comment_is_not_a_formula_in_the_table(text: str):
    vote = Vote("rater-01", "x", "main", False, "a", {}, (), text, 0.0, 1.5)
    [header, row] = list(csv.reader(io.StringIO(votes_csv([vote]), newline="")))
    assert row[header.index("comment")] == f"'{text}" and row[header.index("seconds")] == "1.5"
