"""Where personal data and secrets may begin: the few places of a text at which it is worth asking an expression.

Where no place is, no match of `protect.DETECTORS` begins (the tests hold it to that). A place promises nothing: the expression
decides. Only ASCII is looked at, and bytes of other characters count as no part of a word.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.compiled import kernel
from pipelines.data.kernels.characters import Buffers

KINDS = ("secret", "email", "iban", "credit_card", "national_id", "ip_address", "phone")
SECRET, EMAIL, IBAN, CREDIT_CARD, NATIONAL_ID, IP_ADDRESS, PHONE = BITS = tuple(1 << k for k in range(len(KINDS)))
"""Of a place."""
BIT = dict(zip(KINDS, BITS, strict=True))

DIGIT, LETTER, CAPITAL, HEX, LOCAL, IN_CARD, IN_PHONE, WORD = (1 << k for k in range(8))
"""Bits of a byte: also what an e-mail address has before its @, and what stands between the digits of two kinds of numbers."""

MINUS, PLUS, OPEN, DOT, COLON, AT, BLANK, ZERO = map(ord, "-+(.:@ 0")
MAX_LOCAL_PART = 64
ENOUGH_DIGITS = 12
"""No form asks for more before its expression is asked."""

PREFIXES = ("AKI", "ASI", "AIz", "gh?_", "github_", "glpat-", "hf_", "xox", "sk-", "sk_", "eyJ")
"""Of tokens; `?` is any byte."""
KEY_BEGIN = "-----BEGIN "


class Places(NamedTuple):
    """Those of text i are [bounds[i], bounds[i + 1]), for each kind from left to right."""

    starts: NDArray[np.int32]
    """In characters."""
    kinds: NDArray[np.uint8]
    bounds: NDArray[np.int64]


def places(texts: Buffers, kinds: int) -> Places:
    """`kinds`: the bits of those that are looked for."""
    room = int(texts.offsets[-1] - texts.offsets[0]) + 1  # pages that are never written take no memory
    starts, found = np.empty(room, np.int32), np.empty(room, np.uint8)
    bounds = np.zeros(len(texts) + 1, np.int64)
    num = _places(texts.data, texts.offsets, CLASSES, PAIRS, kinds, starts, found, bounds)
    return Places(starts[:num].copy(), found[:num].copy(), bounds)


def _classes() -> NDArray[np.uint8]:
    found = np.zeros(256, np.uint8)
    for i, character in enumerate(map(chr, range(128))):
        word = character.isalnum()
        found[i] = (
            DIGIT * character.isdigit()
            | LETTER * character.isalpha()
            | CAPITAL * character.isupper()
            | HEX * (character in "0123456789abcdefABCDEF")
            | LOCAL * (word or character in "._%+-")
            | IN_CARD * (character in " -")
            | IN_PHONE * (character in " .()/+-")
            | WORD * (word or character == "_")
        )
    return found


def _bytes(texts: tuple[str, ...]) -> NDArray[np.uint8]:
    """One row each, filled with zeros."""
    found = np.zeros((len(texts), max(map(len, texts)) + 1), np.uint8)
    for row, text in zip(found, texts, strict=True):
        row[: len(text)] = list(text.encode())
    return found


CLASSES, TOKENS, KEYS, ANY = _classes(), _bytes(PREFIXES), _bytes((KEY_BEGIN,)), ord("?")


def _pairs() -> NDArray[np.bool_]:
    """By a letter and the byte behind it, whether these may begin what needs a closer look."""
    found = np.zeros((128, 256), np.bool_)
    found[[ord(prefix[0]) for prefix in PREFIXES], [ord(prefix[1]) for prefix in PREFIXES]] = True
    for kind in (CAPITAL, HEX):
        found |= (CLASSES[:128, None] & kind != 0) & (CLASSES[None, :] & kind != 0)
    found[CLASSES[:128] & HEX != 0, COLON] = True
    found[np.ix_(list(b"XYZxyz"), list(b"-0123456789"))] = True  # Spain's NIE
    return found


PAIRS = _pairs()


@kernel
def _places(data: Any, offsets: Any, classes: Any, pairs: Any, kinds: int, starts: Any, found: Any, bounds: Any) -> int:
    num = 0
    for text in range(len(offsets) - 1):
        first, end = offsets[text], offsets[text + 1]
        inner, in_word = 0, False  # `inner`: bytes that begin no character
        for i in range(first, end):
            c = data[i]
            if c >= 0x80:
                inner += c < 0xC0
                in_word = False
                continue
            kind = classes[c]
            if kind & WORD and in_word:
                continue
            behind_word, in_word = in_word, kind & WORD != 0
            start, bits = i, 0
            if kind & LETTER:
                if (i + 2 < end and (pairs[c, data[i + 1]] or classes[data[i + 2]] & DIGIT)) or (
                    i + 6 < end and classes[data[i + 6]] & DIGIT
                ):
                    bits = _at_letter(data, first, i, end, classes, kinds)
            elif kind & DIGIT:
                bits = _at_digit(data, first, i, end, classes)
            elif c == MINUS:
                bits = SECRET if _begins(data, i, end, KEYS[0]) else 0
            elif c == AT:
                start = _local_part(data, first, i, classes)
                bits = EMAIL if start < i else 0
            elif c in (PLUS, OPEN) and not behind_word and _before(data, first, i, 1) != PLUS:
                bits = PHONE if _digits(data, i, end, classes, IN_PHONE, 3)[0] >= 7 else 0
            if bits & kinds:
                starts[num], found[num], num = start - first - inner, bits & kinds, num + 1
        bounds[text + 1] = num
    return num


@kernel
def _before(data: Any, first: int, i: int, by: int) -> int:
    """The byte so far before this one; 0 where the text has none."""
    return data[i - by] if i - by >= first else 0


@kernel
def _local_part(data: Any, first: int, at: int, classes: Any) -> int:
    """Where the part before the @ begins; `at` where there is none of at most 64 characters."""
    start = at
    while start > first and classes[data[start - 1]] & LOCAL:
        start -= 1
        if at - start > MAX_LOCAL_PART:
            return at
    return start


@kernel
def _at_letter(data: Any, first: int, i: int, end: int, classes: Any, kinds: int) -> int:
    """The kinds that may begin with this letter, the first of a word."""
    bits, last = 0, _before(data, first, i, 1)
    if i + 8 < end and classes[data[i + 2]] & DIGIT and classes[data[i + 3]] & DIGIT and classes[data[i + 1]] & LETTER:
        bits |= IBAN
    if classes[data[i]] & HEX and last not in (COLON, DOT) and _groups(data, i, end, classes):
        bits |= IP_ADDRESS
    if kinds & SECRET and last != MINUS:
        for k in range(len(TOKENS)):
            if TOKENS[k, 0] == data[i] and _begins(data, i, end, TOKENS[k]):
                bits |= SECRET
    j = i
    while j < end and j < i + 6 and classes[data[j]] & LETTER:
        j += 1
    if j < end and classes[data[j]] & IN_CARD:
        j += 1
    if j < end and classes[data[j]] & DIGIT:
        bits |= NATIONAL_ID
    return bits


@kernel
def _at_digit(data: Any, first: int, i: int, end: int, classes: Any) -> int:
    """The kinds that may begin with this digit, the first of a word."""
    last, last_but_one = _before(data, first, i, 1), _before(data, first, i, 2)
    bits, goes_on = 0, classes[last_but_one] & DIGIT != 0 and last in (BLANK, DOT)
    num, behind = _digits(data, i, end, classes, IN_PHONE, 2)
    if (num >= 10 or (num >= 6 and data[i] == ZERO)) and not (
        classes[last] & IN_CARD and classes[last_but_one] & (DIGIT | CAPITAL)
    ):
        bits |= PHONE
    if num >= 8 or (num >= 6 and behind < end and classes[data[behind]] & LETTER):
        bits |= 0 if last in (DOT, PLUS, MINUS) else NATIONAL_ID
    if num >= ENOUGH_DIGITS:
        bits |= 0 if goes_on or last == MINUS else CREDIT_CARD
    if last != DOT and (_octets(data, i, end, classes) or (last != COLON and _groups(data, i, end, classes))):
        bits |= IP_ADDRESS
    return bits


@kernel
def _digits(data: Any, i: int, end: int, classes: Any, between: int, most: int) -> tuple[int, int]:
    """How many digits there are, up to twelve, with at most so many bytes between two of them, and where the last one ends."""
    num, gap, behind = 0, 0, i
    while i < end and num < ENOUGH_DIGITS and gap <= most:
        kind = classes[data[i]]
        i += 1
        if kind & DIGIT:
            num, gap, behind = num + 1, 0, i
        elif kind & between:
            gap += 1
        else:
            break
    return num, behind


@kernel
def _octets(data: Any, i: int, end: int, classes: Any) -> bool:
    """Whether three groups of one to three digits stand here, each with a dot behind it."""
    return _parts(data, i, end, classes, 3, DIGIT, 1, 3, DOT)


@kernel
def _groups(data: Any, i: int, end: int, classes: Any) -> bool:
    """Whether two groups of at most four hexadecimal digits stand here, each with a colon behind it."""
    return _parts(data, i, end, classes, 2, HEX, 0, 4, COLON)


@kernel
def _parts(data: Any, i: int, end: int, classes: Any, num: int, kind: int, least: int, most: int, mark: int) -> bool:
    for _ in range(num):
        begun = i
        while i < end and i < begun + most and classes[data[i]] & kind:
            i += 1
        if i < begun + least or i >= end or data[i] != mark:
            return False
        i += 1
    return True


@kernel
def _begins(data: Any, i: int, end: int, prefix: Any) -> bool:
    for k in range(len(prefix)):
        if prefix[k] == 0:
            return True
        if i + k >= end or (data[i + k] != prefix[k] and prefix[k] != ANY):
            return False
    return True
