"""Acknowledged votes survive SIGKILLs of the server, and none counts twice."""

import random
import threading
import time
from http.client import HTTPException
from pathlib import Path

import pytest

from distft.human_eval.votes import Votes
from tests.support.studies import Served, make_study, plain_texts

CHOICES = ("a", "b", "tie", "both_bad", "skip")


def rate(served: Served, rater: int, seed: int, acknowledged: dict[str, str], stop: threading.Event) -> None:
    """Votes until all pages are done or `stop`; each vote is sent again until it is acknowledged, and some twice."""
    rng, path = random.Random(seed), served.path(rater)
    while not stop.is_set():
        try:
            served.post(f"{path}/consent", {})
            item = served.next_item(rater)
            if item is None:
                return
            choice = acknowledged.get(item) or rng.choice(CHOICES)
            body = {"item": item, "choice": choice}
            while not stop.is_set():
                try:
                    reply = served.post(f"{path}/vote", body)
                except (OSError, HTTPException):
                    time.sleep(0.02)
                    continue
                assert reply.status == 200, reply.text
                assert item not in acknowledged, "an acknowledged vote was lost"
                acknowledged[item] = choice
                if rng.random() < 0.2:
                    served.post(f"{path}/vote", body)
                break
        except (OSError, HTTPException):
            time.sleep(0.02)


def kill_often(folder: Path, kills: int, items: int) -> int:
    """Kills the server at random while four raters vote; returns the number of votes, all of them checked."""
    study = make_study(folder, plain_texts(items), "raters=4", "overlap=4")
    acknowledged: list[dict[str, str]] = [{} for _ in range(4)]
    stop, rng = threading.Event(), random.Random(kills)
    with Served(study) as served:
        threads = [
            threading.Thread(target=rate, args=(served, rater, rater, acknowledged[rater], stop)) for rater in range(4)
        ]
        for thread in threads:
            thread.start()
        try:
            for _ in range(kills):
                before = sum(map(len, acknowledged))
                while sum(map(len, acknowledged)) == before:  # until the server is up
                    time.sleep(0.01)
                time.sleep(rng.uniform(0.0, 0.3))
                served.kill()
                served.start(served.port)
        finally:
            time.sleep(0.2)
            stop.set()
            for thread in threads:
                thread.join()
    votes = Votes(study.votes_file)
    saved = dict(votes.db.execute("SELECT slot, choice FROM votes"))
    of_events = votes.db.execute("SELECT slot, count(*) FROM events WHERE kind = 'vote' GROUP BY slot").fetchall()
    assert votes.db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    votes.close()
    known = {item: choice for own in acknowledged for item, choice in own.items()}
    assert known.items() <= saved.items() and len(saved) - len(known) <= 4  # a vote in flight of each rater
    assert all(count == 1 for _, count in of_events) and len(of_events) == len(saved)
    assert len(known) > 4 * kills / 2
    return len(known)


@pytest.mark.slow
def test_acknowledged_votes_survive_a_kill(tmp_path: Path):
    kill_often(tmp_path, kills=3, items=600)


@pytest.mark.soak
def test_no_vote_is_lost_or_doubled_over_50_kills(tmp_path: Path):
    print(f"{kill_often(tmp_path, kills=50, items=8000)} votes acknowledged")
