"""Personal data: a planted value is found, what only looks like one is not, and redaction is idempotent."""

import random
import re
from collections.abc import Iterator

import pytest

from distft.data.cleaning.rules import pii
from distft.data.cleaning.rules.pii import KINDS, Rule, luhn
from tests.data.cleaning.planted_rows import impersonal, personal

RULE = Rule()
PIECES = (
    *"@:-.+()/ \n_%19afvX", "::", "12", "555", "1234", "DE89 3704 0044 0532 0130 00", "4111 1111 1111 1111", "::1",
    "078-05-1120", "8.8.8.8", "2001:4860::8888", "jo@firma.de", "x%y@foo.co.uk", "(650) 253-0000", "+44 121 234 5678",
    "10:20:30", "2024-01-15 10:20", "api_key=", "token: ", "Authorization", "AKIAIOSFODNN7EXAMPLE", "ghp_" + "aB3" * 13,
    "\u2011", "task-", "sk-proj-" + "a1" * 15, "-----BEGIN ", "PRIVATE KEY-----", "\u017f", "\u212a", "\uff11\uff12",
    "version ",
)  # fmt: skip


@pytest.mark.slow
def test_planted_values_are_found_and_look_alikes_are_not():
    planted, others = personal(seed=0, count=1000), impersonal(seed=1, count=1000)
    found = [kind in {each[2] for each in RULE.spans(text)} for text, kind in planted]
    wrong = sum(len(RULE.spans(text)) > 1 for text, _ in planted) + sum(bool(RULE.spans(text)) for text in others)
    recall, precision = sum(found) / len(found), sum(found) / (sum(found) + wrong)
    assert recall >= 0.98, [text for (text, _), good in zip(planted, found, strict=True) if not good][:5]
    assert precision >= 0.95, [text for text in others if RULE.spans(text)][:5]


@pytest.mark.slow
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
        "DE89 3704 0044 0532 01: 300",
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


@pytest.mark.slow
def test_numbers_are_found_in_runs_as_in_the_whole_text():
    for text in mixed(seed=0, count=500):
        runs = [found.span() for found in pii._RUN.finditer(text)]
        for finder in (pii.cards, pii.social_security_numbers, pii.addresses, pii.phones):
            assert [*finder(text, runs)] == [*finder(text, [(0, len(text))])], text


def test_the_search_for_hints_loses_no_match():
    email = re.compile(pii._MAILBOX.pattern.removesuffix(r"\Z") + pii._DOMAIN.pattern)
    num_found = 0
    for text in mixed(seed=1, count=2000):
        whole = {
            "email": [found.span() for found in email.finditer(text) if not found[0].endswith("example.com")],
            "ip6": [found.span() for found in pii._IP6.finditer(text) if pii._is_written_as_address(found[0])],
            "secret": [found.span() for found in pii._SECRET.finditer(text)],
        }
        secrets = dict.fromkeys(span for span in pii.secrets(text) if pii._SECRET.fullmatch(text, *span))
        hinted = {"email": [*pii.emails(text)], "ip6": [*pii._ip6(text)], "secret": [*secrets]}
        assert hinted == whole, text
        assert pii._ASSIGNED_VALUE.search(text) or not pii._ASSIGNED.search(text)
        assert pii._IBAN_TAIL.search(text) or not pii._IBAN.search(text)
        num_found += sum(map(len, whole.values()))
    assert num_found > 500


def mixed(seed: int, count: int) -> Iterator[str]:
    """Yields texts of values, parts of values and what may stand around them."""
    choose = random.Random(seed)
    return ("".join(choose.choices(PIECES, k=choose.randint(1, 14))) for _ in range(count))


def test_the_shortest_number_is_known_for_every_country():
    from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata

    for code, (region, *_) in COUNTRY_CODE_TO_REGION_CODE.items():
        about = PhoneMetadata.metadata_for_region_or_calling_code(code, region)
        assert about and about.general_desc and about.general_desc.possible_length
        added = len(re.sub(r"\\\d", "", about.national_prefix_transform_rule or ""))
        assert len(str(code)) + min(about.general_desc.possible_length) - added >= pii._ABROAD_DIGITS
    assert [pii._national_digits(region) for region in ("US", "FR", "AG", "ZZ")] == [9, 8, 0, 0]
