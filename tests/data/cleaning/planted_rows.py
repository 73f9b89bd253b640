"""Rows with a planted truth: each generator is seeded and returns what a rule must find, and what it must not."""

import random
import string
from collections.abc import Sequence

from faker import Faker
from phonenumbers import PhoneNumberFormat, example_number_for_type, format_number
from phonenumbers.phonenumberutil import PhoneNumberType

from distft.data.cleaning.rules.pii import luhn
from distft.data.cleaning.view import Text, View

WORDS = (
    "time year people way day man thing woman life child world school state family student group country problem hand "
    "part place case week company system program question work government number night point home water room mother "
    "area money story fact month lot right study book eye job word business issue side kind head house service friend "
    "father power hour game line end member law car city community name president team minute idea body information "
    "back parent face others level office door health person art war history party result change morning reason "
    "research girl guy moment air teacher force education foot boy age policy process music market sense nation plan "
    "college interest death experience effect use class control field development role effort rate heart drug show "
    "leader light voice wife police mind price report decision son view relationship town road arm difference value "
    "building action season society tax director position player record paper space ground form event official matter"
).split()


def pair(prompt: str, answer: str, line: int = 1) -> View:
    return View("rows.jsonl", line, (Text("prompt", prompt, False), Text("completion", answer, True)))


def document(text: str, line: int = 1) -> View:
    return View("rows.jsonl", line, (Text("text", text, True),))


def words(choose: random.Random, count: int) -> list[str]:
    return [choose.choice(WORDS) for _ in range(count)]


def edited(choose: random.Random, text: Sequence[str], share: float) -> list[str]:
    """Returns the words with a share of them replaced by others, at random places."""
    changed = list(text)
    for place in choose.sample(range(len(text)), round(share * len(text))):
        changed[place] = f"{choose.choice(WORDS)}{choose.choice(string.ascii_lowercase)}x"
    return changed


def jaccard(one: Sequence[str], other: Sequence[str], ngram: int = 5) -> float:
    """Returns the Jaccard similarity of the word runs of two texts, by the definition."""
    first, second = ({tuple(text[i : i + ngram]) for i in range(len(text) - ngram + 1)} for text in (one, other))
    return len(first & second) / len(first | second)


def near_pair(choose: random.Random, low: float, high: float, length: int) -> tuple[list[str], list[str]]:
    """Returns two texts whose similarity lies in a range."""
    while True:
        text = words(choose, length)
        other = list(text)
        while jaccard(text, other) > high:
            place = choose.randrange(length)
            other[place] = f"{choose.choice(WORDS)}{choose.randrange(99)}q"
        if jaccard(text, other) >= low:
            return text, other


def secrets(choose: random.Random) -> list[str]:
    """Returns random tokens in the forms of common services; made here, so that none is in this file."""

    def some(count: int, letters: str = string.ascii_letters + string.digits) -> str:
        return "".join(choose.choices(letters, k=count))

    return [
        "AK" + "IA" + some(16, string.ascii_uppercase + string.digits),
        "gh" + "p_" + some(36),
        "sk" + "-proj-" + some(40),
        "hf" + "_" + some(34),
        "xo" + "xb-" + some(12, string.digits) + "-" + some(24),
        "AI" + "za" + some(35),
        f'api_key = "{some(32)}"',
    ]


def card(choose: random.Random) -> str:
    """Returns a card number with Luhn's check digit, plain, with spaces or with dashes."""
    start = choose.choice(["4", "51", "55", "37", "6011", "2221"])
    length = 15 if start == "37" else 16
    body = start + "".join(choose.choices(string.digits, k=length - len(start) - 1))
    digits = next(body + last for last in string.digits if luhn(body + last))
    mark = choose.choice(["", " ", "-"])
    return mark.join(digits[i : i + 4] for i in range(0, length, 4))


def phone(choose: random.Random) -> str:
    """Returns a valid number of a country, as it is written there or internationally; US numbers also locally."""
    region = choose.choice(["US", "GB", "DE", "FR", "IN", "BR", "JP", "AU"])
    number = example_number_for_type(region, PhoneNumberType.FIXED_LINE)
    assert number is not None
    local = region == "US" and choose.random() < 0.5
    return format_number(number, PhoneNumberFormat.NATIONAL if local else PhoneNumberFormat.INTERNATIONAL)


def personal(seed: int, count: int) -> list[tuple[str, str]]:
    """Returns texts with one value each, and the kind of the value."""
    choose, fake = random.Random(seed), Faker(["en_US", "de_DE", "fr_FR"])
    Faker.seed(seed)

    def email() -> str:
        while (found := fake.ascii_company_email()).endswith(("example.com", "example.org", "example.net")):
            pass
        return found

    makers = {
        "email": email,
        "phone": lambda: phone(choose),
        "card": lambda: card(choose),
        "iban": lambda: _spaced(fake.iban(), choose),
        "ip": lambda: fake.ipv4_public(),
        "ssn": lambda: fake["en_US"].ssn(),
        "secret": lambda: choose.choice(secrets(choose)),
    }
    rows = []
    for i in range(count):
        kind = list(makers)[i % len(makers)]
        before, after = " ".join(words(choose, 12)), " ".join(words(choose, 9))
        rows.append((f"{before} {makers[kind]()}{choose.choice([' ', ', ', '. '])}{after}", kind))
    return rows


def _spaced(iban: str, choose: random.Random) -> str:
    return " ".join(iban[i : i + 4] for i in range(0, len(iban), 4)) if choose.random() < 0.5 else iban


def impersonal(seed: int, count: int) -> list[str]:
    """Returns texts with values that look like personal data and are not."""
    choose, fake = random.Random(seed), Faker("en_US")
    Faker.seed(seed)

    def digits(count: int) -> str:
        return "".join(choose.choices(string.digits, k=count))

    def not_a_card() -> str:
        body = "4" + digits(14)
        return next(body + last for last in string.digits if not luhn(body + last))

    makers = [
        lambda: f"version {choose.randrange(9)}.{choose.randrange(20)}.{choose.randrange(99)}.{choose.randrange(255)}",
        lambda: f"v{choose.randrange(20)}.{choose.randrange(20)}.{choose.randrange(99)}",
        lambda: f"ISBN {fake.isbn13()}",
        lambda: f"ISBN {fake.isbn10()}",
        lambda: f"commit {''.join(choose.choices('0123456789abcdef', k=40))}",
        lambda: f"sha256:{''.join(choose.choices('0123456789abcdef', k=64))}",
        lambda: f"{fake.user_name()}@{choose.choice(['example.com', 'example.org', 'mail.example.net', 'host.test'])}",
        lambda: fake.ipv4_private(),
        lambda: choose.choice(["127.0.0.1", "0.0.0.0", "192.0.2.7", "255.255.255.0", "::1", "fe80::1"]),
        lambda: f"{choose.randrange(1990, 2030)}-{choose.randrange(1, 12):02}-{choose.randrange(1, 28):02} 10:23:45",
        lambda: f"order {digits(12)}",
        lambda: f"card {not_a_card()}",
        lambda: f"{choose.randrange(1, 999)},{digits(3)},{digits(3)} people",
        lambda: f"pi is 3.{digits(15)}",
        lambda: f"uuid {fake.uuid4()}",
        lambda: f"x = {digits(4)} * {digits(4)} - {digits(3)}",
        lambda: f"@{fake.user_name()} wrote to user@host",
        lambda: f"timestamp {choose.randrange(10**9, 2 * 10**9)}",
        lambda: f"from {choose.randrange(1900, 1950)} to {choose.randrange(1951, 2020)}, pages {digits(3)}-{digits(3)}",
        lambda: "password: correct horse battery staple",
        lambda: f"000-{digits(2)}-{digits(4)}",
    ]  # fmt: skip
    return [
        f"{' '.join(words(choose, 10))} {makers[i % len(makers)]()} {' '.join(words(choose, 8))}" for i in range(count)
    ]
