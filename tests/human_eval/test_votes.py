"""Votes are counted once, stay with their rater, and hold no token."""

import sqlite3
from pathlib import Path

import pytest

from distft.human_eval.assignment import Slot
from distft.human_eval.votes import Ballot, Votes, token_hash


@pytest.fixture
def opened(tmp_path: Path):
    """A database of two raters with three pages each; gives it with the tokens and the administrator's."""
    pages = [[Slot("x", "practice"), Slot("y", "main", True), Slot("z", "main")]] * 2
    tokens, admin = Votes.create(tmp_path / "votes.sqlite", pages)
    votes = Votes(tmp_path / "votes.sqlite")
    for rater in (0, 1):
        votes.consent(rater)
    yield votes, tokens, admin
    votes.close()


def page(votes: Votes, rater: int) -> str:
    current = votes.progress(rater).current
    assert current is not None
    return current.slot


def ballot(slot: str, choice: str = "a") -> Ballot:
    return Ballot(slot, choice, {})


def test_a_vote_sent_twice_counts_once(opened):
    votes, *_ = opened
    slot = page(votes, 0)
    assert votes.vote(0, ballot(slot)) == "saved"
    assert votes.vote(0, ballot(slot)) == "known"
    assert votes.vote(0, ballot(slot, "b")) == "other"
    assert [vote.choice for vote in votes.all_votes()] == ["a"]
    assert votes.progress(0).done == 1 and votes.progress(1).done == 0


def test_a_page_of_another_rater_is_refused(opened):
    votes, *_ = opened
    slot = page(votes, 0)
    assert votes.vote(1, ballot(slot)) == "not_yours" and votes.undo(1, slot) == "not_yours"
    assert votes.vote(1, ballot("no-such-page")) == "not_yours"
    assert votes.page(1, slot) is None and votes.all_votes() == []


def test_undo_removes_the_latest_vote_and_keeps_a_record(opened):
    votes, *_ = opened
    first = page(votes, 0)
    votes.vote(0, ballot(first))
    second = page(votes, 0)
    votes.vote(0, ballot(second, "tie"))
    assert votes.undo(0, first) == "not_last"
    assert votes.undo(0, second) == "saved" and votes.undo(0, second) == "known"
    assert page(votes, 0) == second and votes.count_events("undo") == 1
    assert votes.vote(0, ballot(second, "b")) == "saved"
    assert [vote.choice for vote in votes.all_votes()] == ["a", "b"]


def test_no_vote_before_consent_or_after_the_end(tmp_path: Path):
    Votes.create(tmp_path / "votes.sqlite", [[Slot("x", "main"), Slot("y", "main")]])
    votes = Votes(tmp_path / "votes.sqlite")
    [slot] = votes.db.execute("SELECT id FROM slots WHERE position = 0").fetchone()
    assert votes.vote(0, ballot(slot)) == "no_consent"
    votes.consent(0)
    assert votes.vote(0, ballot(slot)) == "saved"
    votes.close_study()
    assert votes.vote(0, ballot(page(votes, 0))) == "closed" and votes.undo(0, slot) == "closed"
    assert votes.vote(0, ballot(slot)) == "known"  # it is committed, and a retry must learn that
    votes.close()


def test_tokens_are_long_and_on_disk_only_as_hashes(opened, tmp_path: Path):
    votes, tokens, admin = opened
    assert len({*tokens, admin}) == 3 and all(len(token) >= 32 for token in (*tokens, admin))  # 6 bits a letter
    assert [votes.rater_of(token) for token in tokens] == [0, 1]
    assert votes.rater_of(admin) is None and votes.rater_of("") is None and votes.rater_of("\ud800") is None
    assert votes.is_admin(admin) and not votes.is_admin(tokens[0])
    content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert not any(token.encode() in content for token in (*tokens, admin))
    assert token_hash(tokens[0]) in content


def test_the_database_is_durable_and_private(opened, tmp_path: Path):
    votes, *_ = opened
    settings = [votes.db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
    assert settings == ["wal", 2]
    assert (tmp_path / "votes.sqlite").stat().st_mode & 0o077 == 0


def test_a_vote_that_fails_halfway_leaves_nothing(opened):
    votes, *_ = opened
    slot = page(votes, 0)
    with pytest.raises(sqlite3.Error):
        votes.vote(0, Ballot(slot, None, {}))  # pyright: ignore[reportArgumentType]  # the insert violates NOT NULL
    assert votes.all_votes() == [] and votes.vote(0, ballot(slot)) == "saved"
