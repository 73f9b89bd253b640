"""The server: fixed routes, tokens, cross-site requests, headers, limits, and no name of a system in any byte."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from distft.human_eval.server import MAX_BODY
from tests.support.studies import NAMES, Served, make_study, plain_texts

pytestmark = pytest.mark.slow


def test_a_vote_is_answered_after_it_is_saved(served: Served):
    path = served.path(0)
    assert "I agree" in served.get(path).text
    assert served.post(f"{path}/vote", {"item": "x", "choice": "a"}).status == 403
    assert served.post(f"{path}/consent", {}).json == {"saved": True}
    item = served.next_item(0)
    page = served.get(path).text
    assert f'name="item" value="{item}"' in page and "Answer A" in page and "0 of " in page
    first = served.post(f"{path}/vote", {"item": item, "choice": "a", "reasons": ["clearer"], "comment": "é\ud800"})
    assert (first.status, first.json) == (200, {"saved": True, "item": item, "choice": "a"})
    assert served.post(f"{path}/vote", {"item": item, "choice": "a"}).status == 200
    other = served.post(f"{path}/vote", {"item": item, "choice": "b"})
    assert other.status == 409 and "Undo" in other.json["error"]
    assert served.next_item(0) not in (None, item)
    assert served.post(f"{path}/undo", {"item": item}).status == 200 and served.next_item(0) == item


def test_forms_work_without_scripts(served: Served):
    path, form = served.path(1), {"Content_Type": "application/x-www-form-urlencoded"}
    assert served.post(f"{path}/consent", "", **form).status == 303
    item = served.next_item(1)
    reply = served.post(f"{path}/vote", f"item={item}&choice=tie&reason=clearer&reason=safer&comment=x", **form)
    assert reply.status == 303 and reply.headers["location"] == f"{path}?after={item}"
    shown = served.get(reply.headers["location"]).text
    assert "The page before: another choice was expected." in shown and "Undo last" in shown
    assert served.post(f"{path}/undo", f"item={item}", **form).status == 303 and served.next_item(1) == item


def test_requests_without_a_valid_token_get_401(served: Served):
    path, admin = served.path(2), served.links["admin"]["path"]
    wrong = ["/", "/r/", "/r/x", f"{path}x", "/r/" + "A" * 32, "/admin/x", f"{admin}x", "/items.jsonl", "/key.json"]
    wrong += ["/../key.json", "/r/%2e%2e%2fkey.json", path.replace("/r/", "/admin/"), admin.replace("admin", "r")]
    for address in wrong:
        assert served.get(address).status == 401, address
    for action in ("vote", "undo", "consent"):
        assert served.post(f"/r/{'A' * 32}/{action}", {"item": "x", "choice": "a"}).status == 401
    assert served.get(path).status == 200 and served.get(admin).status == 200


def test_a_page_of_another_rater_gets_403(served: Served):
    for rater in (2, 3):
        served.post(f"{served.path(rater)}/consent", {})
    item = served.next_item(3)
    for action in ("vote", "undo"):
        assert served.post(f"{served.path(2)}/{action}", {"item": item, "choice": "a"}).status == 403
    assert served.next_item(3) == item


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"},
    ],
)  # fmt: skip
def test_a_request_from_another_site_gets_403(served: Served, headers: dict[str, str]):
    path = served.path(4)
    served.post(f"{path}/consent", {})
    item, before = served.next_item(4), served.get(path, Accept="application/json").json
    assert served.post(f"{path}/vote", {"item": item, "choice": "a"}, **headers).status == 403
    if "Sec_Fetch_Site" in headers:
        assert served.get(path, Sec_Fetch_Mode="no-cors", **headers).status == 403
        assert served.get(path, Sec_Fetch_Mode="navigate", **headers).status == 200  # a link in a message
    assert served.get(path, Accept="application/json").json == before


def test_the_own_page_may_vote(served: Served):
    path = served.path(4)
    served.post(f"{path}/consent", {})
    own = {"Origin": served.address, "Sec_Fetch_Site": "same-origin"}
    assert served.post(f"{path}/vote", {"item": served.next_item(4), "choice": "skip"}, **own).status == 200


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({"choice": "a"}, 400, "item: expected text"), ({"item": "x"}, 400, "choice: expected text"),
        ({"item": "x", "choice": "c"}, 400, "expected one of a, b, tie, both_bad, skip"),
        ({"item": 3, "choice": "a"}, 400, "item"), ({"item": "x", "choice": "a", "reasons": "y"}, 400, "reasons"),
        ({"item": "x", "choice": "a", "reasons": ["<b>"]}, 400, "reasons"),
        ({"item": "x", "choice": "a", "ratings": {"y": 1}}, 400, "ratings"),
        ({"item": "x", "choice": "a", "comment": ["y"]}, 400, "comment"),
        ("{", 400, "malformed"), ("[1]", 400, "object"), ("[" * 60_000, 400, "malformed"),
        ("x" * (MAX_BODY + 1), 413, "too long"),
    ],
)  # fmt: skip
def test_a_malformed_vote_is_refused(served: Served, body: object, status: int, text: str):
    reply = served.post(f"{served.path(5)}/vote", body, Content_Type="application/json")
    assert reply.status == status and text in reply.json["error"]


def test_other_types_and_methods_are_refused(served: Served):
    path = served.path(5)
    assert served.post(f"{path}/vote", "item=x", Content_Type="text/plain").status == 415
    assert served.request("PUT", path).status == 405 and served.request("DELETE", f"{path}/vote").status == 405


def test_every_response_has_a_strict_policy_with_a_new_nonce(served: Served):
    nonces = []
    for reply in (served.get(served.path(5)), served.get("/"), served.get(served.links["admin"]["path"])):
        policy = reply.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'nonce-") and "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy and "base-uri 'none'" in policy and "form-action 'self'" in policy
        [nonce] = re.findall(r"script-src 'nonce-([^']+)'", policy)
        assert set(re.findall(r'nonce="([^"]+)"', reply.text)) == {nonce}
        nonces.append(nonce)
        assert not re.search(r"\son\w+=|javascript:|style=|https?://|src=", reply.text)
        assert reply.headers["cache-control"] == "no-store" and reply.headers["referrer-policy"] == "same-origin"
        assert "server" not in reply.headers
    assert len(set(nonces)) == 3


def test_no_byte_names_a_system_and_the_key_is_never_opened(tmp_path: Path, require):
    texts = [[f"I am zebra-run-7, version {i}.", f"As {i} said: Quokka-Run-9!"] for i in range(4)]
    study = make_study(tmp_path, list(zip(*texts, strict=True)), "raters=1", "repeat=0.5")
    study.key_file.rename(tmp_path / "key.json")  # the server has no use for it
    seen = b""
    with Served(study) as served:
        path = served.path()
        replies = [served.get(path), served.post(f"{path}/consent", {})]
        while (item := served.next_item()) is not None:
            replies += [served.get(path), served.post(f"{path}/vote", {"item": item, "choice": "a"})]
        replies += [served.get(f"{path}?after={item}"), served.get("/"), served.post(f"{path}/vote", {})]
        replies += [served.get(served.links["admin"]["path"]), served.get(f"{served.links['admin']['path']}/votes.csv")]
    for reply in replies:
        seen += json.dumps(reply.headers).encode() + reply.body
    shown = seen.decode().lower()
    assert shown.count("[name hidden]") >= 8 and len(replies) > 12
    for name in (*NAMES, "zebra", "quokka", "answers/", ".jsonl", str(tmp_path).lower()):
        assert name not in shown, name


def test_it_listens_on_the_loopback_by_default(served: Served, require):
    listening = subprocess.run([require("ss"), "-ltnH"], capture_output=True, text=True, check=True).stdout
    addresses = [line.split()[3] for line in listening.splitlines()]
    assert f"127.0.0.1:{served.port}" in addresses
    assert not [each for each in addresses if each.endswith(f":{served.port}") and not each.startswith("127.")]


def test_a_server_ends_cleanly_and_a_taken_port_is_named(tmp_path: Path, served: Served):
    study = make_study(tmp_path, plain_texts(2), "raters=1")
    with pytest.raises(AssertionError, match=f"port={served.port}: Address already in use. Try: port=0"):
        Served(study, served.port)
    with Served(study) as other:
        assert other.get(other.path()).status == 200
        other.process.terminate()
        assert other.process.wait() == 0 and other.process.stdout and other.process.stderr
        printed, errors = other.process.stdout.read(), other.process.stderr.read()
    assert errors == ""
    assert "/r/" not in printed and str(study.links_file) in printed  # no token in what may be a log


def test_the_page_of_the_administrator_is_blind(served: Served):
    admin = served.links["admin"]["path"]
    page, table = served.get(admin).text, served.get(f"{admin}/votes.csv")
    assert "rater-06" in page and "Blind" in page
    assert table.headers["content-type"].startswith("text/csv") and table.text.startswith("rater,item,kind")
    assert not any(name in page + table.text for name in NAMES)
