"""Whether ftfy's heuristic finds mojibake in a line: its expression as an automaton whose states are bits.

ftfy.badness.BADNESS_RE is an alternative of some 35 short sequences of character classes. Each place of each sequence is a bit; a
character has the bits of the places that it may stand in (Baeza-Yates and Gonnet 1992, "A new approach to text searching").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.compiled import kernel
from pipelines.data.kernels.characters import FACTOR, NUM_CODE_POINTS, Buffers, all_characters, decode

Uint64s = NDArray[np.uint64]
Points = NDArray[np.bool_]
"""True for the code points of a class."""

WORD_BITS, NEWLINE = 64, 0x0A


class Automaton(NamedTuple):
    """Each row of bits is as many words."""

    kinds: NDArray[np.uint8]
    """Of each code point the row of its bits in `places`."""
    places: Uint64s
    anywhere: Uint64s
    """First places of sequences."""
    at_start: Uint64s
    """Those of sequences that stand at the start alone."""
    last: Uint64s
    """Last places of sequences."""


def broken(texts: Buffers) -> NDArray[np.bool_]:
    """Where a line of the text, with its newline, looks broken to ftfy."""
    found = np.zeros(len(texts), np.bool_)
    _broken(texts.data, texts.offsets, True, *automaton(), found)
    return found


def is_broken(text: str) -> bool:
    """As ftfy.badness.is_bad."""
    data = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
    found = np.zeros(1, np.bool_)
    _broken(data, np.array([0, len(data)], np.int64), False, *automaton(), found)
    return bool(found[0])


@cache
def automaton() -> Automaton:
    from ftfy.badness import BADNESS_RE

    sequences = list(_sequences(BADNESS_RE))
    words, first = list[list[Points]](), list[tuple[int, int, bool]]()
    for anchored, places in sequences:
        if not words or len(words[-1]) + len(places) > WORD_BITS:
            words.append([])  # a sequence lies within a word
        first.append((len(words) - 1, len(words[-1]), anchored))
        words[-1] += places
    anywhere, at_start, last = np.zeros((3, len(words)), np.uint64)
    for (word, bit, anchored), (_, places) in zip(first, sequences, strict=True):
        (at_start if anchored else anywhere)[word] |= np.uint64(1 << bit)
        last[word] |= np.uint64(1 << (bit + len(places) - 1))
    return Automaton(*_rows(words), anywhere, at_start, last)


def _rows(words: list[list[Points]]) -> tuple[NDArray[np.uint8], Uint64s]:
    """The kind of each code point, and the bits of each kind."""
    bits = np.zeros((len(words), NUM_CODE_POINTS), np.uint64)
    for word, places in enumerate(words):
        for bit, points in enumerate(places):
            bits[word, points] |= np.uint64(1 << bit)
    keys = np.bitwise_xor.reduce([row * FACTOR ** np.uint64(word) for word, row in enumerate(bits)])
    _, one_of_each, kinds = np.unique(keys, return_index=True, return_inverse=True)
    rows = np.ascontiguousarray(bits[:, one_of_each].T)
    assert len(rows) <= 256
    assert (bits == rows[kinds.reshape(-1)].T).all()
    return kinds.reshape(-1).astype(np.uint8), rows


def _sequences(expression: re.Pattern[str]) -> Iterator[tuple[bool, list[Points]]]:
    """Whether it stands at the start alone, and its places."""
    from re import _parser  # type: ignore[attr-defined]  # as the interpreter reads it

    ((_, (_, alternatives)),) = _parser.parse(expression.pattern, expression.flags)
    for alternative in alternatives:
        items = list(alternative)
        anchored = str(items[0][0]) == "AT"
        for places in product(*map(_choices, items[anchored:])):
            yield anchored, [points for points in places if points is not None]


def _choices(item: tuple[Any, Any]) -> list[Points | None]:
    """What may stand there; None: nothing."""
    name, value = str(item[0]), item[1]
    if name != "MAX_REPEAT":
        return [_points(value if name == "IN" else [item])]
    least, most, (repeated,) = value
    assert (least, int(most)) == (0, 1), f"ftfy's expression repeats up to {most} times"
    return [*_choices(repeated), None]


def _points(items: Iterable[tuple[Any, Any]]) -> Points:
    """Those of a class."""
    found, negated = np.zeros(NUM_CODE_POINTS, np.bool_), False
    for item, value in items:
        name = str(item)
        if name == "NEGATE":
            negated = True
        elif name == "LITERAL":
            found[value] = True
        elif name == "RANGE":
            found[value[0] : value[1] + 1] = True
        else:
            found |= _named(str(value) if name == "CATEGORY" else name)
    return ~found if negated else found


@cache
def _named(name: str) -> Points:
    if name == "ANY":
        return np.arange(NUM_CODE_POINTS) != ord("\n")
    expression = {"CATEGORY_SPACE": r"\s", "CATEGORY_WORD": r"\w"}[name]
    found = np.zeros(NUM_CODE_POINTS, np.bool_)
    found[[ord(c) for c in re.findall(expression, all_characters())]] = True
    return found


@kernel
def _broken(
    data: Any, offsets: Any, by_line: bool, kinds: Any, places: Any, anywhere: Any, at_start: Any, last: Any, found: Any
) -> None:
    num_words = len(anywhere)
    states = np.zeros(num_words, np.uint64)
    for text in range(len(offsets) - 1):
        i, end = offsets[text], offsets[text + 1]
        states[:] = 0
        begins = True
        while i < end:
            c, i = decode(data, i)
            row, hit = places[kinds[c]], np.uint64(0)
            for k in range(num_words):
                state = (states[k] << np.uint64(1)) & ~at_start[k] | anywhere[k]
                if begins:
                    state |= at_start[k]
                states[k] = state & row[k]
                hit |= states[k] & last[k]
            if hit:
                found[text] = True
                break
            begins = by_line and c == NEWLINE
            if begins:
                states[:] = 0
