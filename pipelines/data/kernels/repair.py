"""Which texts the repair of Unicode could change at all, and the commonest changes: one character for one, or for none.

The tables are taken from ftfy itself. What is flagged here is repaired by ftfy, which is slow; what is not, ftfy would leave
as it is (the tests hold it to that). Mojibake shows in pairs of characters: ftfy.badness knows some 400 of them, in classes.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.compiled import kernel
from pipelines.data.kernels.characters import LINE_BREAKS, NUM_CODE_POINTS, Buffers, all_characters, decode

COMPLEX, MAPPED, UNSETTLED, CLUE, LETTER, PLAIN, ALONE = 1, 2, 4, 8, 16, 32, 64
"""Bits of a code point: only ftfy can tell what becomes of it; one other or none takes its place; NFC may join it to the one
before; it occurs in mojibake; is a letter there; is a letter that means mojibake only next to what is none; means it by itself."""

ENTITY, SUSPECT = 128, 256
"""Bits of a text beside COMPLEX, MAPPED and UNSETTLED: something like an HTML entity; signs of mojibake."""

DELETED, NEWLINE, RETURN = 0, 0x0A, 0x0D
BEFORE_ANYTHING = "ÂÃÎÐ"
"""Before any other clue, letter or not, these may be the first half of a broken character."""


def flags(texts: Buffers, removed: Mapping[int, str | None]) -> NDArray[np.uint16]:
    """The bits of each text. `removed`: what is to become of some characters after ftfy, as for str.translate."""
    bits, _ = _tables(tuple(removed.items()))
    found = np.zeros(len(texts), np.uint16)
    _flags(texts.data, texts.offsets, bits, found)
    return found


def mapped(texts: Buffers, removed: Mapping[int, str | None]) -> Buffers:
    """The texts with every mapped character replaced; no text becomes longer in bytes than it was."""
    bits, targets = _tables(tuple(removed.items()))
    data, offsets = np.empty(len(texts.data) + 1, np.uint8), np.zeros(len(texts) + 1, np.int64)
    _map(texts.data, texts.offsets, bits, targets, data, offsets)
    return Buffers(data, offsets)


@cache
def _tables(removed: tuple[tuple[int, str | None], ...]) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """The bits of every code point, and the one that takes its place."""
    bits, targets = _mojibake(), np.arange(NUM_CODE_POINTS, dtype=np.int32)
    for point, target in _changes(dict(removed)).items():
        single = len(target) <= 1 and len(target.encode()) <= len(chr(point).encode())
        bits[point] |= MAPPED if single else COMPLEX
        targets[point] = ord(target) if single and target else DELETED
    for point in (0x1B, *range(0x80, 0xA0)):  # ftfy looks at what stands behind it, or takes it for a letter
        bits[point] |= COMPLEX
    for point in range(0xC0, 0x30000):
        if unicodedata.combining(chr(point)) or 0x1160 <= point < 0x1200:
            bits[point] |= UNSETTLED
        parts = unicodedata.decomposition(chr(point)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            bits[int(parts[1], 16)] |= UNSETTLED
    return bits, targets


def _changes(removed: Mapping[int, str | None]) -> dict[int, str]:
    """What becomes of single characters: by ftfy, then by `removed`, then by NFC."""
    from ftfy import fixes
    from ftfy.chardata import CONTROL_CHARS, LIGATURES, WIDTH_MAP

    def change(text: str) -> str:
        for step in (fixes.fix_latin_ligatures, fixes.fix_character_width, fixes.fix_line_breaks):
            text = step(text)
        return unicodedata.normalize("NFC", fixes.remove_control_chars(text).translate(removed))

    composed = (point for point in range(0xC0, 0x30000) if unicodedata.decomposition(chr(point))[:1] not in ("", "<"))
    points = {*CONTROL_CHARS, *LIGATURES, *WIDTH_MAP, *removed, *map(ord, LINE_BREAKS), *composed}
    points -= set(range(0xD800, 0xE000))
    return {point: target for point in points if (target := change(chr(point))) != chr(point)}


def _mojibake() -> NDArray[np.uint8]:
    from ftfy.badness import BADNESS_RE, MOJIBAKE_CATEGORIES

    groups = {name: _members(letters) for name, letters in MOJIBAKE_CATEGORIES.items()}
    clues = {ord(character) for character in BADNESS_RE.pattern if not character.isascii()}.union(*groups.values())
    plain = groups["lower_accented"] | groups["lower_common"] | groups["upper_common"] | groups["kaomoji"]
    plain -= groups["upper_accented"] | {ord("°")}
    bits = np.zeros(NUM_CODE_POINTS, np.uint8)
    for bit, points in (
        (CLUE, clues),
        (LETTER, (plain | groups["upper_accented"]) - set(map(ord, BEFORE_ANYTHING))),
        (PLAIN, plain),
        (ALONE, set(map(ord, "ŒœÃÂЂ"))),
    ):
        bits[list(points)] |= bit
    return bits


def _members(letters: str) -> set[int]:
    """Of the inside of a character class, in the Basic Multilingual Plane (its 2,048 surrogates are not among all characters)."""
    return set(map(ord, re.findall(f"[{letters}]", all_characters()[0x80:0xF800])))


@kernel
def _flags(data: Any, offsets: Any, bits: Any, found: Any) -> None:
    for text in range(len(offsets) - 1):
        i, end, seen, before, entity = offsets[text], offsets[text + 1], 0, 0, -1
        while i < end:
            c, i = decode(data, i)
            if c < 0x80:
                entity = _entity(c, entity)
                seen |= ENTITY if entity > 24 else 0
            kind = bits[c]
            if kind:
                seen |= kind & (COMPLEX | MAPPED | UNSETTLED)
                pair = (kind & CLUE) != 0 and (before & CLUE) != 0
                if (pair and not ((kind & PLAIN) != 0 and (before & LETTER) != 0)) or (kind & ALONE) != 0:
                    seen |= SUSPECT
            before = kind
            if c >= 0x80:
                entity = -1
        found[text] = seen


@kernel
def _entity(c: int, letters: int) -> int:
    """Behind `c` the letters since an ampersand, 0 for just that; -1 outside; above 24 when `c` ends an entity."""
    if c == 0x26:
        return 0
    if letters < 0:
        return -1
    if c == 0x3B:
        return 25 if letters > 0 else -1
    if c == 0x23 and letters == 0:
        return 0
    if letters < 24 and (0x30 <= c <= 0x39 or 0x41 <= c <= 0x5A or 0x61 <= c <= 0x7A):
        return letters + 1
    return -1


@kernel
def _map(data: Any, offsets: Any, bits: Any, targets: Any, out: Any, bounds: Any) -> None:
    num = 0
    for text in range(len(offsets) - 1):
        i, end = offsets[text], offsets[text + 1]
        while i < end:
            start = i
            c, i = decode(data, i)
            if not bits[c] & MAPPED:
                for k in range(start, i):
                    out[num] = data[k]
                    num += 1
                continue
            if c == RETURN and i < end and data[i] == NEWLINE:
                continue  # the two are one line break
            c = targets[c]
            if c == DELETED:
                continue
            if c < 0x80:
                out[num] = c
                num += 1
            elif c < 0x800:
                out[num], out[num + 1] = 0xC0 | c >> 6, 0x80 | c & 0x3F
                num += 2
            elif c < 0x10000:
                out[num], out[num + 1], out[num + 2] = 0xE0 | c >> 12, 0x80 | c >> 6 & 0x3F, 0x80 | c & 0x3F
                num += 3
            else:
                out[num], out[num + 1] = 0xF0 | c >> 18, 0x80 | c >> 12 & 0x3F
                out[num + 2], out[num + 3] = 0x80 | c >> 6 & 0x3F, 0x80 | c & 0x3F
                num += 4
        bounds[text + 1] = num
