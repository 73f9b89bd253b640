"""The votes of a study in SQLite: a vote is acknowledged after its commit, and counted once.

Write-ahead log with synchronous=FULL: a commit survives SIGKILL and power loss. Tokens are stored as SHA-256 only. A
page of a rater is a slot with a random id. The slot is the key of a vote, so the same vote twice is one vote.
"""

import hashlib
import json
import secrets
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distft.human_eval.assignment import Slot
from distft.human_eval.study import Kind

TOKEN_BYTES = 24  # 192 bits
Outcome = Literal["saved", "known", "other", "not_yours", "closed", "no_consent", "not_last"]

_SCHEMA = """
CREATE TABLE raters (id INTEGER PRIMARY KEY, name TEXT UNIQUE, token BLOB UNIQUE, consented REAL);
CREATE TABLE slots (id TEXT PRIMARY KEY, rater INTEGER NOT NULL REFERENCES raters, position INTEGER NOT NULL,
    item TEXT NOT NULL, kind TEXT NOT NULL, swapped INTEGER NOT NULL, shown REAL, UNIQUE (rater, position));
CREATE TABLE votes (slot TEXT PRIMARY KEY REFERENCES slots, number INTEGER UNIQUE NOT NULL, choice TEXT NOT NULL,
    ratings TEXT NOT NULL, reasons TEXT NOT NULL, comment TEXT NOT NULL, at REAL NOT NULL, seconds REAL);
CREATE TABLE events (at REAL NOT NULL, rater INTEGER, kind TEXT NOT NULL, slot TEXT, detail TEXT);
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB);
"""


@dataclass(frozen=True)
class Ballot:
    """What a rater sent about a slot. ratings: criterion -> 1 to 5, of a rating study."""

    slot: str
    choice: str
    ratings: Mapping[str, int]
    reasons: tuple[str, ...] = ()
    comment: str = ""


@dataclass(frozen=True)
class Vote:
    """A vote with its slot. choice: a is the first answer of the page. seconds: from page to vote; None: unknown."""

    rater: str
    item: str
    kind: Kind
    swapped: bool
    choice: str
    ratings: Mapping[str, int]
    reasons: tuple[str, ...]
    comment: str
    at: float
    seconds: float | None


@dataclass(frozen=True)
class Page:
    """A slot as the server shows it. choice: of the vote there is; None: none yet."""

    slot: str
    item: str
    kind: Kind
    swapped: bool
    choice: str | None


@dataclass(frozen=True)
class Progress:
    """Where a rater stands. current: the next page; None: all are done. last: the latest vote, which undo removes."""

    consented: bool
    current: Page | None
    last: Page | None
    done: int
    total: int


def token_hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


class Votes:
    """The open database. One process serves it; `analyze` and `status` read it at the same time."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(path)
        self.db = sqlite3.connect(path, isolation_level=None, timeout=10, check_same_thread=False)
        for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            self.db.execute(f"PRAGMA {setting}")

    @staticmethod
    def create(path: Path, pages: Sequence[Sequence[Slot]]) -> tuple[list[str], str]:
        """Writes the database; returns a token for each rater, and the administrator's.

        pages: of each rater, in order.
        """
        tokens = [secrets.token_urlsafe(TOKEN_BYTES) for _ in range(len(pages) + 1)]
        path.touch(mode=0o600)
        votes = Votes(path)
        votes.db.executescript(_SCHEMA)
        with votes.transaction() as db:
            for number, slots in enumerate(pages):
                db.execute("INSERT INTO raters VALUES (?, ?, ?, NULL)", (number, f"rater-{number + 1:02d}",
                                                                        token_hash(tokens[number])))  # fmt: skip
                rows = [
                    (secrets.token_hex(8), number, position, slot.item, slot.kind, slot.swapped, None)
                    for position, slot in enumerate(slots)
                ]
                db.executemany("INSERT INTO slots VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            db.execute("INSERT INTO meta VALUES ('admin', ?)", (token_hash(tokens[-1]),))
        votes.close()
        return tokens[:-1], tokens[-1]

    def close(self) -> None:
        self.db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commits at the end; rolls back on an exception."""
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield self.db
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")

    def rater_of(self, token: str) -> int | None:
        """Returns the rater with this token; None: nobody has it."""
        row = self.db.execute("SELECT id FROM raters WHERE token = ?", (token_hash(token),)).fetchone()
        return None if row is None else row[0]

    def is_admin(self, token: str) -> bool:
        [stored] = self.db.execute("SELECT value FROM meta WHERE key = 'admin'").fetchone()
        return secrets.compare_digest(stored, token_hash(token))

    def is_closed(self) -> bool:
        return self.db.execute("SELECT 1 FROM meta WHERE key = 'closed'").fetchone() is not None

    def close_study(self) -> None:
        """Refuses votes from now on."""
        self.db.execute("INSERT OR IGNORE INTO meta VALUES ('closed', ?)", (time.time(),))

    def progress(self, rater: int) -> Progress:
        """Returns where a rater stands, and notes when the current page was shown first."""
        [consented] = self.db.execute("SELECT consented FROM raters WHERE id = ?", (rater,)).fetchone()
        columns = "slots.id, item, kind, swapped, choice"
        joined = f"SELECT {columns} FROM slots LEFT JOIN votes ON slot = slots.id WHERE rater = ?"
        current = self.db.execute(f"{joined} AND choice IS NULL ORDER BY position LIMIT 1", (rater,)).fetchone()
        last = self.db.execute(f"{joined} AND choice NOT NULL ORDER BY number DESC LIMIT 1", (rater,)).fetchone()
        count = "SELECT count(*), count(slot) FROM slots LEFT JOIN votes ON slot = slots.id WHERE rater = ?"
        total, done = self.db.execute(count, (rater,)).fetchone()
        if current and consented is not None:
            self._show(current[0])
        return Progress(consented is not None, _page(current), _page(last), done, total)

    def _show(self, slot: str) -> None:
        if self.db.execute("SELECT 1 FROM slots WHERE id = ? AND shown IS NULL", (slot,)).fetchone():
            self.db.execute("UPDATE slots SET shown = ? WHERE id = ? AND shown IS NULL", (time.time(), slot))

    def page(self, rater: int, slot: str) -> Page | None:
        """Returns a page of this rater; None when it is of another, or there is none."""
        query = "SELECT slots.id, item, kind, swapped, choice FROM slots LEFT JOIN votes ON slot = slots.id"
        return _page(self.db.execute(f"{query} WHERE slots.id = ? AND rater = ?", (slot, rater)).fetchone())

    def consent(self, rater: int) -> None:
        with self.transaction() as db:
            db.execute("UPDATE raters SET consented = ? WHERE id = ? AND consented IS NULL", (time.time(), rater))
            db.execute("INSERT INTO events VALUES (?, ?, 'consent', NULL, NULL)", (time.time(), rater))

    def vote(self, rater: int, ballot: Ballot) -> Outcome:
        """Saves a vote; 'saved' and 'known' mean that it is committed.

        known: the same vote is there already. other: a vote with another choice is there; undo it first.
        """
        now = time.time()
        with self.transaction() as db:
            row = db.execute("SELECT rater, shown FROM slots WHERE id = ?", (ballot.slot,)).fetchone()
            if row is None or row[0] != rater:
                return "not_yours"
            ratings = json.dumps(dict(sorted(ballot.ratings.items())))
            there = db.execute("SELECT choice, ratings FROM votes WHERE slot = ?", (ballot.slot,)).fetchone()
            if there:
                return "known" if there == (ballot.choice, ratings) else "other"
            if self.is_closed():
                return "closed"
            if db.execute("SELECT consented FROM raters WHERE id = ?", (rater,)).fetchone()[0] is None:
                return "no_consent"
            seconds = None if row[1] is None else max(0.0, now - row[1])
            [number] = db.execute("SELECT coalesce(max(number), 0) + 1 FROM votes").fetchone()
            values = (ballot.choice, ratings, json.dumps(ballot.reasons), ballot.comment)
            db.execute(
                "INSERT INTO votes VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (ballot.slot, number, *values, now, seconds)
            )
            db.execute("INSERT INTO events VALUES (?, ?, 'vote', ?, ?)", (now, rater, ballot.slot, ballot.choice))
            following = "SELECT slots.id FROM slots LEFT JOIN votes ON slot = slots.id WHERE rater = ? AND slot IS NULL"
            shown = f"UPDATE slots SET shown = ? WHERE id = ({following} ORDER BY position LIMIT 1) AND shown IS NULL"
            db.execute(shown, (now, rater))  # the next page is on its way; saves a commit of its own
        return "saved"

    def undo(self, rater: int, slot: str) -> Outcome:
        """Removes the rater's latest vote; it stays in the events. 'known': there is no vote on that page."""
        now = time.time()
        with self.transaction() as db:
            row = db.execute("SELECT rater FROM slots WHERE id = ?", (slot,)).fetchone()
            if row is None or row[0] != rater:
                return "not_yours"
            if self.is_closed():
                return "closed"
            latest = "SELECT slot, choice FROM votes JOIN slots ON slot = slots.id WHERE rater = ?"
            last = db.execute(f"{latest} ORDER BY number DESC LIMIT 1", (rater,)).fetchone()
            if not db.execute("SELECT 1 FROM votes WHERE slot = ?", (slot,)).fetchone():
                return "known"
            if last is None or last[0] != slot:
                return "not_last"
            db.execute("DELETE FROM votes WHERE slot = ?", (slot,))
            db.execute("UPDATE slots SET shown = ? WHERE id = ?", (now, slot))
            db.execute("INSERT INTO events VALUES (?, ?, 'undo', ?, ?)", (now, rater, slot, last[1]))
        return "saved"

    def all_votes(self) -> list[Vote]:
        """Returns all votes in the order of raters and pages."""
        columns = "raters.name, item, kind, swapped, choice, ratings, reasons, comment, at, seconds"
        query = f"SELECT {columns} FROM votes JOIN slots ON slot = slots.id JOIN raters ON raters.id = rater"
        rows: Iterable[tuple] = self.db.execute(f"{query} ORDER BY rater, position")
        return [
            Vote(
                name, item, kind, bool(swap), choice, json.loads(ratings), tuple(json.loads(reasons)), comment, at, sec
            )
            for name, item, kind, swap, choice, ratings, reasons, comment, at, sec in rows
        ]

    def raters(self) -> list[tuple[str, int, int]]:
        """Returns name, pages and votes of each rater."""
        joined = "FROM raters JOIN slots ON rater = raters.id LEFT JOIN votes ON slot = slots.id"
        return list(self.db.execute(f"SELECT name, count(*), count(slot) {joined} GROUP BY raters.id"))

    def count_events(self, kind: str) -> int:
        return self.db.execute("SELECT count(*) FROM events WHERE kind = ?", (kind,)).fetchone()[0]


def _page(row: tuple | None) -> Page | None:
    return None if row is None else Page(row[0], row[1], row[2], bool(row[3]), row[4])
