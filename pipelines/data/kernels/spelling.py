"""Two short looks at the words of a text: spelt with single spaces, and its English stop words."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.compiled import kernel
from pipelines.data.kernels.characters import SPACE, Buffers, classes, decode, folded

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
BLANK, DELETE = 0x20, 0x7F
MAX_LETTERS = 7
"""Of a stop word: it is compared as one number of as many bytes."""


def single_spaced(texts: Buffers) -> Buffers:
    """Each text with every run of white space as one space, and none at its ends."""
    data, offsets = np.empty(len(texts.data) + 1, np.uint8), np.zeros(len(texts) + 1, np.int64)
    _single_spaced(texts.data, texts.offsets, classes(), data, offsets)
    return Buffers(data, offsets)


def count_stop_words(texts: Buffers, enough: int) -> NDArray[np.int64]:
    """Distinct stop words in each text, whatever their case; counting ends at `enough`."""
    found = np.zeros(len(texts), np.int64)
    wanted = np.array([int.from_bytes(word.encode(), "big") for word in STOP_WORDS], np.int64)
    _count_stop_words(texts.data, texts.offsets, folded(), wanted, enough, found)
    return found


@kernel
def _single_spaced(data: Any, offsets: Any, classes: Any, out: Any, bounds: Any) -> None:
    num = 0
    for text in range(len(offsets) - 1):
        i, first, gap = offsets[text], num, False
        while i < offsets[text + 1]:
            start = i
            if not gap and BLANK < data[i] < DELETE:  # within a word
                out[num], num, i = data[i], num + 1, i + 1
                continue
            c, i = decode(data, i)
            if classes[c] & SPACE:
                gap = num > first
                continue
            if gap:
                out[num] = BLANK
                num, gap = num + 1, False
            for k in range(start, i):
                out[num] = data[k]
                num += 1
        bounds[text + 1] = num


@kernel
def _count_stop_words(data: Any, offsets: Any, folded: Any, wanted: Any, enough: int, found: Any) -> None:
    """A word is a run of the letters a to z."""
    for text in range(len(offsets) - 1):
        i, end, word, letters, seen = offsets[text], offsets[text + 1], 0, 0, 0
        while i <= end and found[text] < enough:
            c = 0
            if i < end:
                c, i = decode(data, i)
                c = folded[c]
            else:
                i += 1  # one step beyond the end, where the last word is closed
            if 0x61 <= c <= 0x7A:
                word, letters = (word << 8 | c) if letters < MAX_LETTERS else 0, letters + 1
                continue
            for k in range(len(wanted)):
                if word == wanted[k] and not seen >> k & 1:
                    seen |= 1 << k
                    found[text] += 1
            word, letters = 0, 0
