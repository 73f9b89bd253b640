"""Two raters vote in a real browser with the keyboard alone, over a reload and a SIGKILL of the server."""

from pathlib import Path

import pytest

from distft.human_eval.votes import Votes
from tests.support.browser import Browser
from tests.support.studies import Served, make_study, plain_texts

pytestmark = pytest.mark.slow
CHOICES = {"1": "a", "2": "b", "3": "tie", "4": "both_bad", "s": "skip"}
DONE = "document.querySelector('main').dataset.phase === 'done'"


def progress(browser: Browser) -> int:
    return browser.evaluate("document.querySelector('#progress').value")


def vote(browser: Browser, key: str) -> str:
    """Presses a key and waits for the next page; returns the choice."""
    before = progress(browser)
    browser.press(key)
    browser.wait(f"document.readyState === 'complete' && document.querySelector('#progress').value === {before + 1}")
    return CHOICES[key]


def begin(browser: Browser, address: str) -> None:
    browser.open(address)
    browser.wait("document.activeElement.tagName === 'BUTTON'")  # autofocus comes with the first frame, after the load
    browser.press("Enter")
    browser.wait("document.querySelector('main').dataset.phase === 'item'")


def test_a_whole_study_by_keyboard_over_reload_and_sigkill(tmp_path: Path, require):
    study = make_study(tmp_path, plain_texts(6), "raters=2", "attention=0.2", "repeat=0.2", "seed=3")
    with Served(study) as served, Browser(require("chromium")) as one, Browser(require("chromium"), 390, 844) as other:
        addresses = [served.address + served.path(rater) for rater in (0, 1)]
        begin(one, addresses[0])
        begin(other, addresses[1])
        pressed: tuple[list[str], list[str]] = ([], [])
        for key in "12":
            pressed[0].append(vote(one, key))
        assert "The page before" in one.evaluate("document.body.innerText")
        one.press("r")  # reasons: tick the first, then type a comment, then leave the field and vote
        one.press(" ")
        for _ in range(5):
            one.press("Tab")
        for letter in "12 ok":
            one.press(letter)
        one.press("Escape")
        pressed[0].append(vote(one, "1"))

        one.open(addresses[0])  # a reload, or another day
        assert progress(one) == 3
        vote(one, "4")
        one.press("u")
        one.wait("document.readyState === 'complete' && document.querySelector('#progress').value === 3")
        pressed[0].append(vote(one, "3"))

        pressed[1].append(vote(other, "2"))
        served.kill()
        other.press("1")
        other.wait("document.querySelector('#status').innerText.startsWith('Not saved yet')")
        assert progress(other) == 1
        served.start(served.port)
        other.wait("document.readyState === 'complete' && document.querySelector('#progress').value === 2")
        pressed[1].append("a")

        for browser, choices in zip((one, other), pressed, strict=True):
            keys = "1s24312s3412"
            while not browser.evaluate(DONE):
                key = keys[len(choices)]
                if progress(browser) + 1 == browser.evaluate("document.querySelector('#progress').max"):
                    browser.press(key)
                    browser.wait(f"document.readyState === 'complete' && {DONE}")
                    choices.append(CHOICES[key])
                else:
                    choices.append(vote(browser, key))
        assert [browser.problems for browser in (one, other)] == [[], []]
        assert all(address.startswith(served.address) for address in one.requests if address != "about:blank")

    votes = Votes(study.votes_file)
    found = votes.all_votes()
    for rater, choices in enumerate(pressed):
        own = [each for each in found if each.rater == f"rater-{rater + 1:02d}"]
        assert [each.choice for each in own] == choices and len(own) == 10
    assert (found[2].reasons, found[2].comment) == (("more correct",), "12 ok")
    assert votes.count_events("undo") == 1 and votes.count_events("vote") == 21
    assert all(each.seconds is not None and each.seconds > 0 for each in found)
    votes.close()


def test_a_rating_study_by_keyboard(tmp_path: Path, require):
    study = make_study(tmp_path, plain_texts(2), "raters=1", "type=rating", "repeat=0")
    with Served(study) as served, Browser(require("chromium")) as browser:
        begin(browser, served.address + served.path())
        for _ in range(4):
            before = progress(browser)
            browser.press("4")
            browser.press("5")
            browser.press("Enter")
            done = f"document.querySelector('#progress').value === {before + 1}"
            browser.wait(f"document.readyState === 'complete' && ({done})")
        assert browser.evaluate(DONE) and browser.problems == []
    votes = Votes(study.votes_file)
    assert [vote.ratings for vote in votes.all_votes()] == [{"correct": 5, "helpful": 4}] * 4
    votes.close()


@pytest.mark.parametrize("dark", [False, True])
def test_text_has_contrast_and_every_control_a_name(served: Served, require, dark: bool):
    """WCAG 2: a contrast of at least 4.5, and an accessible name and 24 pixels for every control."""
    luminance = """(c => { const [r, g, b] = c.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
        .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
        return .2126 * r + .7152 * g + .0722 * b; })"""
    contrasts = f"""(() => {{ const lum = {luminance}; const bad = [];
        for (const e of document.querySelectorAll('main *')) {{
          if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
          if (!e.offsetParent) continue;
          let back = e;
          while (back && getComputedStyle(back).backgroundColor === 'rgba(0, 0, 0, 0)') back = back.parentElement;
          const f = lum(getComputedStyle(e).color), b = lum(getComputedStyle(back || document.body).backgroundColor);
          const ratio = (Math.max(f, b) + .05) / (Math.min(f, b) + .05);
          if (ratio < 4.5) bad.push(e.tagName + ': ' + e.innerText.slice(0, 30) + ': ' + ratio.toFixed(2)); }}
        return bad; }})()"""
    names = """[...document.querySelectorAll('button, input:not([type=hidden]), textarea, progress')].filter(e =>
        !(e.innerText || '').trim() && !(e.labels && e.labels.length) && !e.ariaLabel).map(e => e.outerHTML)"""
    small = """[...document.querySelectorAll('button, summary, label')].filter(e => e.offsetParent
        && !e.closest('header') && e.getBoundingClientRect().height < 24).map(e => e.outerHTML)"""
    path = served.path(5)
    with Browser(require("chromium"), dark=dark) as browser:
        browser.open(served.address + path)
        shown = [browser.evaluate(each) for each in (contrasts, names, small)]
        served.post(f"{path}/consent", {})
        browser.open(served.address + path)
        browser.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true; })")
        shown += [browser.evaluate(each) for each in (contrasts, names, small)]
        browser.open(served.address + served.links["admin"]["path"])
        shown.append(browser.evaluate(contrasts))
        background = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert shown == [[]] * 7
    assert (background == "rgb(18, 22, 28)") == dark
