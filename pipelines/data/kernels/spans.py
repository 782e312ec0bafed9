"""Lines and paragraphs: where they lie in each text, hashes of their words, and the texts without some of the lines.

Lines and paragraphs are those of `tokens.lines`. A paragraph is made of whole lines.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.compiled import kernel
from pipelines.data.kernels.characters import (
    BREAK,
    FACTOR,
    NUM_CODE_POINTS,
    SEED,
    SPACE,
    Buffers,
    classes,
    decode,
    folded,
    mix,
)
from pipelines.data.kernels.tokens import NEWLINE, room

Bools = NDArray[np.bool_]
Int64s = NDArray[np.int64]


class Spans(NamedTuple):
    """Those of text i are [bounds[i], bounds[i + 1]); what is blank is none. Places are bytes of the column's data."""

    hashes: NDArray[np.uint64]
    """Of the words in their order, as `tokens.plain_words` has them; 0 for those with fewer than were asked."""
    starts: Int64s
    """Where the line begins, or the first one of the paragraph: with its indentation."""
    ends: Int64s
    """Behind the last byte that is no white space."""
    bounds: Int64s


class Left(NamedTuple):
    """Texts without some of their lines."""

    texts: Buffers
    starts: Int64s
    """Where each line begins now; -1 for one that is gone."""


def spans(texts: Buffers, *, paragraphs: bool = False, min_words: int = 1, ignore_digits: bool = False) -> Spans:
    """The lines of each text, or its paragraphs.

    Args:
        ignore_digits: take each decimal digit for 0.
    """
    most, bounds = room(texts), np.zeros(len(texts) + 1, np.int64)
    hashes, (starts, ends) = np.empty(most, np.uint64), np.empty((2, most), np.int64)
    letters = _without_digits() if ignore_digits else folded()
    _spans(texts.data, texts.offsets, classes(), letters, paragraphs, min_words, hashes, starts, ends, bounds)
    num = bounds[-1]
    return Spans(hashes[:num], starts[:num], ends[:num], bounds)


def without(texts: Buffers, lines: Spans, gone: Bools) -> Left:
    """The texts without the lines that are gone. A text that loses none stays as it is, byte for byte.

    What stands between two lines that stay is the longest of all that stood there between lines, so that paragraphs stay apart;
    what stands before the first line and behind the last one stays there.
    """
    size = int(texts.offsets[-1] - texts.offsets[0])
    left = Left(
        Buffers(np.empty(size + 1, np.uint8), np.zeros(len(texts) + 1, np.int64)), np.empty(len(gone), np.int64)
    )
    _without(texts.data, texts.offsets, lines.starts, lines.ends, lines.bounds, gone, *left.texts, left.starts)
    return left


@cache
def _without_digits() -> NDArray[np.int32]:
    """As `folded`, with one digit for all of Unicode's decimal ones."""
    found = folded().copy()
    points = np.flatnonzero(found > 0).tolist()
    found[[point for point in points if chr(point).isdecimal()]] = ord("0")
    assert len(found) == NUM_CODE_POINTS
    return found


@kernel
def _spans(
    data: Any,
    offsets: Any,
    classes: Any,
    letters: Any,
    paragraphs: bool,
    min_words: int,
    hashes: Any,
    starts: Any,
    ends: Any,
    bounds: Any,
) -> None:
    """`ink` is the place behind the last character that is no white space, -1 before the first."""
    num = 0
    for text in range(len(offsets) - 1):
        i, end = offsets[text], offsets[text + 1]
        start, ink, newlines = i, -1, 0
        whole, words, h, inside = SEED, 0, SEED, False
        while i <= end:  # one step beyond the end, where the last one is closed
            if i < end:
                c, i = decode(data, i)
                kind = classes[c]
            else:
                c, i, kind, newlines = NEWLINE, i + 1, SPACE | BREAK, 1
            newlines = newlines + 1 if c == NEWLINE else 0
            letter = letters[c]
            if letter > 0 or (letter < 0 and inside):
                h, inside = (h ^ np.uint64(abs(letter))) * FACTOR, True
            elif inside:
                whole, words = mix(whole + mix(h)), words + 1  # mixed word by word: their order counts
                h, inside = SEED, False
            if not kind & SPACE:
                ink = i
            elif kind & BREAK:
                if ink >= 0 and (newlines >= 2 or not paragraphs):
                    hashes[num] = max(whole, np.uint64(1)) if words >= min_words else np.uint64(0)
                    starts[num], ends[num] = start, ink
                    num, ink = num + 1, -1
                    whole, words = SEED, 0
                if ink < 0:
                    start = i
        bounds[text + 1] = num


@kernel
def _without(
    data: Any, offsets: Any, starts: Any, ends: Any, bounds: Any, gone: Any, out: Any, out_offsets: Any, moved: Any
) -> None:
    """`gap` and `width` are of the longest gap since the last line that stays."""
    num = 0
    for text in range(len(offsets) - 1):
        before, gap, width, begun = offsets[text], offsets[text], -1, False
        for line in range(bounds[text], bounds[text + 1]):
            here = starts[line] - before
            if width < 0 or (begun and here > width):
                gap, width = before, here
            before = ends[line]
            if gone[line]:
                moved[line] = -1
                continue
            num = _copied(data, gap, gap + width, out, num)
            moved[line] = num
            num = _copied(data, starts[line], ends[line], out, num)
            width, begun = 0, True
        num = _copied(data, before, offsets[text + 1], out, num)
        out_offsets[text + 1] = num


@kernel
def _copied(data: Any, first: int, end: int, out: Any, num: int) -> int:
    for i in range(first, end):
        out[num + i - first] = data[i]
    return num + end - first
