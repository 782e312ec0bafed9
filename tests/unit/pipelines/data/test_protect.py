from __future__ import annotations

import itertools
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import ConfigError
from pipelines.config import ProtectAction, ProtectConfig, ProtectedKind
from pipelines.data.kernels import personal
from pipelines.data.kernels.characters import buffers
from pipelines.data.protect import (
    DETECTORS,
    Protected,
    Span,
    find,
    key_id,
    luhn,
    mod_97,
    protect_column,
    read_key,
)
from tests.unit.pipelines.data import reference
from tests.unit.pipelines.data.strategies import column, texts

KINDS: tuple[ProtectedKind, ...] = get_args(ProtectedKind)
KEY = b"k" * 32
PRIVATE = "-----BEGIN PRIVATE KEY-----"


def found_in(text: str, kinds: Sequence[ProtectedKind] = KINDS) -> list[Span]:
    return find(column([text]), kinds).get(0, ("", []))[1]


def protect(text: str, actions: Mapping[ProtectedKind, ProtectAction], key: bytes = b"") -> Protected:
    replaced, found = protect_column(column([text]), actions, key)
    return found.get(0, Protected(replaced[0].as_py(), [], []))


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("Write to anna.b+list@mail.example.org.", "email", "anna.b+list@mail.example.org"),
        ("mailto:a@b.co>", "email", "a@b.co"),
        ("call +49 30 1234-5678, now", "phone", "+49 30 1234-5678"),
        ("(555) 010-4477", "phone", "(555) 010-4477"),
        ("tel 555-010-4477.", "phone", "555-010-4477"),
        ("01.84.17.61.18", "phone", "01.84.17.61.18"),
        ("0496 46 46 70 x", "phone", "0496 46 46 70"),
        ("345-899-3560x4587", "phone", "345-899-3560x4587"),
        ("(08) 8747 6301", "phone", "(08) 8747 6301"),
        ("+41 (0)69 979 80 58", "phone", "+41 (0)69 979 80 58"),
        ("card 4111 1111 1111 1111 ok", "credit_card", "4111 1111 1111 1111"),
        ("378282246310005", "credit_card", "378282246310005"),
        ("pay DE89 3704 0044 0532 0130 00 today", "iban", "DE89 3704 0044 0532 0130 00"),
        ("GB82WEST12345698765432", "iban", "GB82WEST12345698765432"),
        ("from 8.8.8.8 at noon", "ip_address", "8.8.8.8"),
        ("host 2001:4860:4860::8888 is up", "ip_address", "2001:4860:4860::8888"),
        ("born 85.07.30-033.28, it says", "national_id", "85.07.30-033.28"),  # Belgium
        ("CPF 390.533.447-05.", "national_id", "390.533.447-05"),
        ("号码360426199101010071。", "national_id", "360426199101010071"),
        ("hetu 131052-308T", "national_id", "131052-308T"),
        ("2 95 10 99 126 111 93", "national_id", "2 95 10 99 126 111 93"),  # France
        ("IdNr: 36 574 261 809", "national_id", "36 574 261 809"),
        ("Aadhaar 2341 2341 2346", "national_id", "2341 2341 2346"),
        ("(RCCMNL83S18D969H)", "national_id", "RCCMNL83S18D969H"),  # Italy
        ("DNI 54362315K", "national_id", "54362315K"),
        ("NIE X-5253868-R", "national_id", "X-5253868-R"),
        ("880320-0016", "national_id", "880320-0016"),  # Sweden
        ("AHV 756.9217.0769.85", "national_id", "756.9217.0769.85"),
        ("NI number AB 12 34 56 C, please", "national_id", "AB 12 34 56 C"),
        ("SSN 536-90-4399", "national_id", "536-90-4399"),
        ("Employee 12 536-90-4399 10/12/80", "national_id", "536-90-4399"),  # a row of a table
        ("CPF 390.533.447-05 12", "national_id", "390.533.447-05"),
        ("born 30.07.30-033.66", "national_id", "30.07.30-033.66"),  # in 2030: Belgium numbers a century at a time
        ("hetu 010594y123w", "national_id", "010594y123w"),
        ("nie x5253868r", "national_id", "x5253868r"),
        ("cf rccmnl83s18d969h", "national_id", "rccmnl83s18d969h"),
        ("a RſSMRA85T10A562S b 536-90-4399", "national_id", "536-90-4399"),  # a long s is no S
        ("id AKIAIOSFODNN7EXAMPLE;", "secret", "AKIAIOSFODNN7EXAMPLE"),
        ("token ghp_" + "a1" * 18, "secret", "ghp_" + "a1" * 18),
        ("k = sk-proj-" + "Ab1" * 8, "secret", "sk-proj-" + "Ab1" * 8),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIB\nAAA=\n-----END RSA PRIVATE KEY-----", "secret", None),
    ],
)
def test_finds(text: str, kind: ProtectedKind, value: str | None) -> None:
    spans = found_in(text)
    assert [(span.kind, text[span.start : span.end]) for span in spans] == [(kind, value or text)]


@pytest.mark.parametrize(
    "text",
    [
        "@ a@b user@localhost a@b.c 5@3.1415",
        "in 1999-2004, 3.14159265358979, 1,234,567,890 and 2024-01-02 10:20:30, 01.02.2024, 01-02-2024",
        "4111 1111 1111 1112",  # check digit
        "DE89 3704 0044 0532 0130 01",  # check digits
        "version 1.2.3.4.5, 10.0.0.1, 192.168.1.1, 127.0.0.1, 999.1.1.1, ::1, 203.0.113.7, 12:30:45",
        "a sky-blue ask-me-anything task_force_alpha_bravo_charlie_delta",
        "isbn 978-3-16-148410-0",
    ],
)
def test_leaves_what_only_looks_alike(text: str) -> None:
    assert found_in(text) == []


@pytest.mark.parametrize(
    "text",
    [
        *("000-12-3456", "666-12-3456", "123-45-67890", "1.390.533.447-05", "390.533.447-06", "85.07.30-034.28"),
        *("54362315A", "131052-308U", "36 574 261 808", "2341 2341 2347", "RCCMNL83S18D969I", "BG 12 34 56 C"),
        *("756.9217.0769.84", "X-5253868-S", "880320-0018", "360426199101010072", "2 95 10 99 126 111 94"),
    ],
)
def test_what_fails_its_check_is_no_national_id(text: str) -> None:
    assert found_in(text, ("national_id",)) == []


def test_masks_and_hashes_and_says_where_without_the_value() -> None:
    text = "a@b.org or c@d.org or a@b.org, +1 555 010 4477"
    found = protect(text, {"email": "hash", "phone": "mask"}, KEY)
    words = found.text.split(" or ")
    assert words[0] == words[2].split(",")[0] != words[1]
    assert found.text.endswith(", [PHONE]")
    assert [found.text[s.start : s.end] for s in found.spans] == [words[0], words[1], words[0], "[PHONE]"]
    assert protect(text, {"email": "hash"}, b"o" * 32).text.split(" or ")[0] != words[0]
    assert "a@b" not in repr(found)


def test_kinds_that_are_not_named_stay() -> None:
    assert protect("a@b.org +1 555 010 4477", {"phone": "mask"}).text == "a@b.org [PHONE]"


def test_dropped_kinds_are_masked_and_told_apart() -> None:
    found = protect("a@b.org +1 555 010 4477", {"phone": "mask", "email": "drop"})
    assert found.text == "[EMAIL] [PHONE]"
    assert [span.kind for span in found.refused] == ["email"]
    assert [span.kind for span in found.spans] == ["phone"]


def matching(kind: ProtectedKind) -> st.SearchStrategy[str]:
    """What the expression of a kind matches, if what it asks of the neighbours is left out."""
    plain = re.sub(r"\(\?<?!(?:\[[^]]*\]|[^][()])*\)", "", DETECTORS[kind].pattern.pattern).replace("}+", "}")
    return st.from_regex(plain, fullmatch=True)


values = st.sampled_from(
    [
        "a@b.org",
        "+49 30 12345678",
        "4111111111111111",
        "DE89370400440532013000",
        "8.8.8.8",
        "AKIAIOSFODNN7EXAMPLE",
        "(555) 010-4477",
    ]
)
mixed = st.lists(st.one_of(values, texts, st.text(alphabet="0123456789 .-+()@:aAF", max_size=30))).map("".join)


@settings(max_examples=500, deadline=None)
@given(st.lists(mixed, max_size=4), st.sets(st.sampled_from(KINDS)))
def test_finds_in_a_column_what_the_expressions_find_in_each_text(texts: list[str], kinds: set[ProtectedKind]) -> None:
    found = find(column(texts), tuple(kinds))
    expected = {i: (text, spans) for i, text in enumerate(texts) if (spans := reference.personal(text, kinds))}
    assert found == expected
    for _, spans in found.values():
        assert all(one.end <= other.start for one, other in itertools.pairwise(spans))


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(KINDS).flatmap(lambda kind: st.tuples(st.just(kind), matching(kind))), texts, texts)
def test_no_value_that_an_expression_matches_is_passed_over(
    drawn: tuple[ProtectedKind, str], before: str, after: str
) -> None:
    kind, value = drawn
    for text in (value, f" {value}", f"{before}{value}{after}", f"{value} {value}", f"é{value}é"):
        places = personal.places(buffers(column([text])), personal.BIT[kind]).starts.tolist()
        assert {match.start() for match in DETECTORS[kind].pattern.finditer(text)} <= set(places)


@given(st.integers(10**11, 10**17 - 1))
def test_luhn_holds_for_just_one_check_digit(number: int) -> None:
    assert sum(luhn(f"4{number}{digit}") for digit in range(10)) == 1


def test_mod_97_finds_any_two_neighbours_exchanged() -> None:
    iban = "GB82WEST12345698765432"
    swapped = [iban[:i] + iban[i + 1] + iban[i] + iban[i + 2 :] for i in range(4, 21)]
    assert mod_97(iban)
    assert not any(mod_97(other) for other in swapped if other != iban)


@pytest.mark.parametrize("part", ["a", "a.", "a@", "1", "1 ", "1-", "a1:", "AB12", "eyJa.", "sk-", "a.b@c.", PRIVATE])
def test_no_text_takes_long(part: str) -> None:
    began = time.process_time()
    found_in(part * (200_000 // len(part)))
    assert time.process_time() - began < 2


def test_key_is_asked_for_and_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="key_file"):
        ProtectConfig(email="hash")
    config = ProtectConfig(email="hash", key_file=str(tmp_path / "key"))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_key(config)
    (tmp_path / "key").write_bytes(b"short")
    with pytest.raises(ConfigError, match="5 bytes"):
        read_key(config)
    (tmp_path / "key").write_bytes(KEY)
    assert read_key(config) == KEY
    assert key_id(KEY) != key_id(b"o" * 32)
    assert key_id(b"") == ""
    assert read_key(ProtectConfig(email="mask")) == b""


SAME: dict[str, ProtectedKind] = {
    "EMAIL_ADDRESS": "email",
    "PHONE_NUMBER": "phone",
    "CREDIT_CARD": "credit_card",
    "IBAN_CODE": "iban",
    "IP_ADDRESS": "ip_address",
}


def test_finds_the_planted_values_of_1500_texts(shared_data: Callable[[str], Path]) -> None:
    planted, found = Counter[str](), Counter[str]()
    for file in shared_data("pii_presidio").rglob("*.json"):
        for record in json.loads(file.read_text(encoding="utf-8")):
            spans = found_in(record["full_text"])
            for value in record["spans"]:
                if kind := SAME.get(value["entity_type"]):
                    planted[kind] += 1
                    found[kind] += any(
                        s.kind == kind and s.start <= value["start_position"] and s.end >= value["end_position"]
                        for s in spans
                    )
    assert set(planted) <= set(DETECTORS)
    recall = {kind: found[kind] / planted[kind] for kind in planted}
    assert recall["email"] == recall["iban"] == 1
    assert recall["credit_card"] >= 0.98
    assert recall["phone"] >= 0.6  # many are local numbers without any mark of one


def num_steps(text: str) -> int:
    """Calls made while it is searched, generators' resumptions among them."""
    steps = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal steps
        steps += 1

    sys.setprofile(count)
    try:
        found_in(text)
    finally:
        sys.setprofile(None)
    return steps


def test_the_work_grows_as_the_text_does() -> None:
    lines = "8.8.8.8 - a@b.org 4111111111111111 +49 30 12345678\n"
    found_in(lines)
    assert num_steps(lines * 400) <= 2.5 * num_steps(lines * 200)


def test_a_begin_ends_the_search_for_the_end_of_the_one_before() -> None:
    match = DETECTORS["secret"].pattern.search(f"{PRIVATE}\nMIIB\n{PRIVATE}\nMIIC\n{PRIVATE.replace('BEGIN', 'END')}")
    assert match
    assert match.group().count("BEGIN") == 1


LINE = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKB"
END = PRIVATE.replace("BEGIN", "END")
PGP = "-----BEGIN PGP PRIVATE KEY BLOCK-----"


@pytest.mark.parametrize(
    "key",
    [
        rf"{PRIVATE}\n{LINE}\n{LINE}\nAb3=\n{END}",  # as in JSON and .env
        rf"{PRIVATE}\r\n{LINE}\r\n{END}",
        rf"{PRIVATE}\\n{LINE}\\n{END}",  # JSON in JSON
        f"{PGP}\nVersion: GnuPG v2.0.22 (GNU/Linux)\nComment: https://x.org/?a_b\n\n{LINE}\n=aB3d\n{PGP.replace('BEGIN', 'END')}",
        f"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,0A\n\n{LINE}\n"
        "-----END RSA PRIVATE KEY-----",
        f"{PRIVATE}\n{LINE}\n{LINE}\nAb3",  # cut off
        rf"{PRIVATE}\n{LINE}\n{LINE}",
        f"{PGP}\nVersion: GnuPG v1.4 (MingW32)\n\n{LINE}\n{LINE}",
    ],
)
def test_finds_the_whole_of_a_private_key(key: str) -> None:
    assert found_in(f'a "{key}"') == [("secret", 3, 3 + len(key))]


def test_a_key_without_an_end_goes_no_further_than_what_looks_like_one() -> None:
    text = f"{PRIVATE}\n{LINE}\n\nThe weather is better than last week."
    assert protect(text, {"secret": "mask"}).text.endswith(" weather is better than last week.")
    assert found_in(f"A file with {PRIVATE} in its first line holds a key.") == []
    assert max(span.end - span.start for span in found_in(PRIVATE + f"\n{LINE}" * 3_000)) < 70_000
