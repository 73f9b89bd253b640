"""A judge behind an OpenAI-compatible endpoint: both orders, cache, cost and faults, over real HTTP on the loopback."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from distft.judges import Question, make_judge
from distft.judges.endpoint import Judge
from distft.judges.pairs import compare_answers, summary
from tests.support.chat_server import ChatServer, Fault

KEY = "sk-test-0123456789abcdefghij"
QUESTIONS = [
    Question("2 and 2?", "good 4", "bad 5", "4"),
    Question("3 and 3?", "bad 7", "good 6", "6"),
    Question("The same?", "equal", "equal"),
    Question("Neither?", "bad a", "bad b"),
]


def fair(prompt: str, first: str, second: str) -> str:
    """Prefers the good answer, else none."""
    good = [text.startswith("good") for text in (first, second)]
    return "[[C]]" if good[0] == good[1] else f"A is longer, but I say [[{'A' if good[0] else 'B'}]]"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    found = ChatServer(fair, KEY)
    yield found
    found.close()


def judge_of(server: ChatServer, **options: object) -> Judge:
    return Judge(**{"model": "judge-1", "url": server.url, "retries": 2} | options)  # pyright: ignore


@pytest.mark.slow
def test_each_pair_is_judged_in_both_orders(server: ChatServer, tmp_path: Path) -> None:
    verdicts, cost = compare_answers(judge_of(server), QUESTIONS, tmp_path)
    assert [verdict.winner for verdict in verdicts] == ["ours", "theirs", "tie", "tie"]
    assert len(server.requests) == cost.asked == 6  # equal answers are not asked about
    assert {each["model"] for each in server.requests} == {"judge-1"}
    server.verdict = lambda *_: "[[A]]"  # whatever comes first
    verdicts, cost = compare_answers(judge_of(server, criteria="shorter"), QUESTIONS, tmp_path)
    assert [verdict.winner for verdict in verdicts] == ["tie"] * 4 and cost.cached == 0
    found = summary(verdicts, list("abcd"), cost)
    assert found["first_answer"] == 1 and found["orders_disagree"] == 3
    assert found["win_rate"]["value"] == 0.5  # pyright: ignore


@pytest.mark.slow
def test_replies_are_cached_by_content_and_their_cost_counted(server: ChatServer, tmp_path: Path) -> None:
    judge = judge_of(server, prices=[2.0, 10.0])
    _, first = compare_answers(judge, QUESTIONS, tmp_path)
    assert (first.asked, first.cached, first.input_tokens, first.output_tokens) == (6, 0, 600, 42)
    assert first.price == pytest.approx(600 * 2e-6 + 42 * 10e-6)
    [file] = tmp_path.iterdir()
    file.write_text(file.read_text()[:-9])  # a crash cut off the last line
    verdicts, again = compare_answers(judge, [*QUESTIONS, Question("New?", "good", "bad")], tmp_path)
    assert (again.asked, again.cached) == (3, 5) and verdicts[-1].winner == "ours"
    assert KEY not in "".join(file.read_text() for file in tmp_path.iterdir())


@pytest.mark.slow
def test_a_busy_or_broken_server_is_asked_again(server: ChatServer, tmp_path: Path) -> None:
    server.faults = [Fault(429, {"Retry-After": "0.4"})]
    one = judge_of(server, parallel=1)
    verdicts, _ = compare_answers(one, QUESTIONS[:1], tmp_path)
    assert verdicts[0].winner == "ours" and server.times[1] - server.times[0] >= 0.4
    server.faults = [Fault(500, {"Retry-After": "0.01"}), Fault(hang=1.0)]
    one = judge_of(server, parallel=1, timeout=0.3)
    verdicts, cost = compare_answers(one, QUESTIONS[1:2], tmp_path)
    assert verdicts[0].winner == "theirs" and cost.asked == 2 and len(server.requests) == 3 + 4


@pytest.mark.slow
def test_what_was_judged_is_kept_when_the_server_gives_up(server: ChatServer, tmp_path: Path) -> None:
    server.faults = [Fault(hang=0.01)] * 2 + [Fault(503, {"Retry-After": "0.01"})] * 9
    one = judge_of(server, parallel=1, retries=1)
    with pytest.raises(RuntimeError, match=r"gave no reply for judge-1: InternalServerError: .*not now.*is cached"):
        compare_answers(one, QUESTIONS, tmp_path)
    server.faults = []
    verdicts, cost = compare_answers(one, QUESTIONS, tmp_path)
    assert cost.cached == 2 and cost.asked == 4 and verdicts[0].winner == "ours"


def test_malformed_replies_are_counted_and_left_out(server: ChatServer, tmp_path: Path) -> None:
    empty, null = b'{"choices": []}', b'{"choices": [{"index": 0, "message": {"role": "assistant", "content": null}}]}'
    server.faults = [Fault(body=empty), Fault(body=null), Fault(body=b"{not json"), Fault(body=b"[1, 2]")]
    server.faults += [Fault(body=b"<html>", headers={"Content-Type": "text/html"})]
    one = judge_of(server, parallel=1)
    server.verdict = lambda *_: "Both have merits."
    verdicts, cost = compare_answers(one, QUESTIONS, tmp_path)
    assert [verdict.winner for verdict in verdicts] == ["unreadable", "unreadable", "tie", "unreadable"]
    found = summary(verdicts, list("abcd"), cost)
    assert found["unreadable"] == 3 and found["n"] == 1
    server.verdict = fair  # replies without a text are requested again; one with a text is known
    verdicts, cost = compare_answers(one, QUESTIONS, tmp_path)
    assert (cost.asked, cost.cached) == (5, 1)


def test_a_wrong_key_ends_at_once_and_is_not_shown(
    server: ChatServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", wrong := "sk-wrong-0123456789abcdefghij")
    with pytest.raises(RuntimeError, match="AuthenticationError") as caught:
        compare_answers(judge_of(server, parallel=1), QUESTIONS, tmp_path)
    assert wrong not in str(caught.value) and len(server.requests) == 1 and not list(tmp_path.iterdir())


def test_wrong_options_are_refused_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def errors(**options: object) -> list[str]:
        return make_judge("endpoint", {f"endpoint.{key}": value for key, value in options.items()})[1]

    assert errors() == [
        "judge=endpoint: needs a model. Try: endpoint.model=NAME, and endpoint.url=URL for a server of your own"
    ]
    assert errors(model="m") == [
        "judge=endpoint: $OPENAI_API_KEY is not set, and https://api.openai.com/v1 needs a key. "
        "Try: export OPENAI_API_KEY=..."
    ]
    assert errors(modell="m") == ["endpoint.modell: there is no such option. Did you mean model?"]
    assert "are two numbers" in errors(model="m", url="http://x", prices=3)[0]
    assert "is a number of at least 1" in errors(model="m", url="http://x", parallel=0)[0]
    assert errors(model="m", url="http://127.0.0.1:9/v1") == []  # a server of one's own needs no key
    assert make_judge("endpont", {"rule.score": "f1"})[1] == [
        "rule.score: has no effect without judge=rule",
        "judge=endpont: is not a judge. Did you mean endpoint? Allowed: endpoint, model, rule",
    ]
