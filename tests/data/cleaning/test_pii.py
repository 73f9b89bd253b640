"""Personal data: a planted value is found, what only looks like one is not, and redaction is idempotent."""

import random

import pytest

from distft.data.cleaning.rules.pii import KINDS, Rule, luhn
from tests.data.cleaning.planted_rows import impersonal, personal

RULE = Rule()


def test_planted_values_are_found_and_look_alikes_are_not():
    planted, others = personal(seed=0, count=1000), impersonal(seed=1, count=1000)
    found = [kind in {each[2] for each in RULE.spans(text)} for text, kind in planted]
    wrong = sum(len(RULE.spans(text)) > 1 for text, _ in planted) + sum(bool(RULE.spans(text)) for text in others)
    recall, precision = sum(found) / len(found), sum(found) / (sum(found) + wrong)
    assert recall >= 0.98, [text for (text, _), good in zip(planted, found, strict=True) if not good][:5]
    assert precision >= 0.95, [text for text in others if RULE.spans(text)][:5]


def test_redaction_is_idempotent_and_leaves_no_value():
    for text, kind in personal(seed=2, count=210):
        change = RULE.change(text)
        assert change is not None and f"<{kind.upper()}>" in change.text
        assert RULE.change(change.text) is None
        start, end, _ = RULE.spans(text)[0]
        assert text[start:end] not in change.text


@pytest.mark.parametrize(
    ("text", "redacted", "reason"),
    [
        ("Mail jo@firma.de or ring +44 121 234 5678.", "Mail <EMAIL> or ring <PHONE>.", "1 email, 1 phone, 27 char"),
        ("from 8.8.8.8 to 10.0.0.1", "from <IP> to 10.0.0.1", "1 ip, 7 characters"),
        ("DE89 3704 0044 0532 0130 00 is mine", "<IBAN> is mine", "1 iban, 27 characters"),
        ("078-05-1120 and 4111 1111 1111 1111", "<SSN> and <CARD>", "1 card, 1 ssn, 30 characters"),
    ],
)
def test_a_value_is_replaced_by_its_kind_and_counted(text: str, redacted: str, reason: str):
    change = RULE.change(text)
    assert change is not None and change.text == redacted
    assert change.finding.reason is not None and change.finding.reason.startswith(reason)


@pytest.mark.parametrize(
    "text",
    [
        "DE89 3704 0044 0532 0130 01",  # a wrong check digit
        "4111 1111 1111 1112",
        "666-12-3456 and 900-12-3456",
        "driver version 8.8.8.8",
        "name@example.com",
        "see section 2.1.4.7 of the manual",
        "call me at 12345",
        "2026-11-29 09:45:10",
        "psutil.boot_time() is 1365519115.0",
        "std::vector, a::b and x[::2]",
    ],
)
def test_what_fails_its_check_is_not_personal(text: str):
    assert RULE.spans(text) == []


def test_only_the_requested_kinds_are_looked_for():
    text = "jo@firma.de from 10.1.2.3"
    assert [kind for *_, kind in Rule(kinds=("private_ip",)).spans(text)] == ["private_ip"]
    assert [kind for *_, kind in Rule(kinds=("email",)).spans(text)] == ["email"]
    assert [kind for *_, kind in Rule(kinds=KINDS).spans(text)] == ["email", "private_ip"]


def test_a_number_without_country_code_is_read_in_its_region():
    assert Rule(region="DE").spans("Ruf 030 901820 an") and not Rule(region="US").spans("Ruf 030 901820 an")


def test_luhn_finds_every_single_wrong_digit():
    choose = random.Random(0)
    for _ in range(50):
        body = "".join(choose.choices("0123456789", k=15))
        [right] = [last for last in "0123456789" if luhn(body + last)]
        assert sum(luhn(body + last) for last in "0123456789") == 1 and luhn(body + right)
