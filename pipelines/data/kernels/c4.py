"""The lines that C4 keeps (Raffel et al. 2020, JMLR 21/140, section 2.2, and the code that made it).

A line stays when it ends with a full stop, a question mark, an exclamation mark or a quote (the paper's "end quotation mark":
single ones too, as in datatrove; C4's code has double ones alone) but not with an ellipsis, has at least 5 words, none of them
longer than 1,000 characters, and names neither JavaScript nor a policy on cookies and use.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.compiled import kernel
from pipelines.data.kernels.characters import BREAK, SPACE, Buffers, classes, decode

MIN_WORDS, MAX_WORD_CHARACTERS = 5, 1_000
POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
PHRASES = ("lorem ipsum", "javascript", *POLICIES)
"""Whatever the case of their letters. A line with the first stays for the page filter to see, and so does a brace in a policy."""

LOREM, JAVASCRIPT, POLICY, BRACE = 1, 2, 4, 8


def _table() -> NDArray[np.uint8]:
    """A phrase a row, filled with zeros."""
    phrases = np.zeros((len(PHRASES), max(map(len, PHRASES)) + 1), np.uint8)
    for row, phrase in zip(phrases, PHRASES, strict=True):
        row[: len(phrase)] = np.frombuffer(phrase.encode(), np.uint8)
    return phrases


def _pairs() -> NDArray[np.bool_]:
    """By the lower five bits of two bytes, whether a phrase may begin with them."""
    found = np.zeros((32, 32), np.bool_)
    for phrase in PHRASES:
        found[ord(phrase[0]) & 31, ord(phrase[1]) & 31] = True
    return found


WANTED, PAIRS = _table(), _pairs()


def kept_lines(texts: Buffers) -> Buffers:
    """Each text's lines that stay, without the white space around them."""
    data, offsets = np.empty(len(texts.data) + 1, np.uint8), np.zeros(len(texts) + 1, np.int64)
    _kept_lines(texts.data, texts.offsets, classes(), PAIRS, WANTED, data, offsets)
    return Buffers(data, offsets)


def sentence_ends(texts: Buffers, enough: int) -> NDArray[np.int64]:
    """Full stops, question and exclamation marks with white space behind them (ASCII) in each text; counting ends at `enough`."""
    found = np.zeros(len(texts), np.int64)
    _sentence_ends(texts.data, texts.offsets, enough, found)
    return found


@kernel
def _sentence_ends(data: Any, offsets: Any, enough: int, found: Any) -> None:
    for text in range(len(offsets) - 1):
        i, last = offsets[text], offsets[text + 1] - 1
        while i < last and found[text] < enough:
            if data[i] == 0x2E or data[i] == 0x3F or data[i] == 0x21:  # . ? !
                found[text] += data[i + 1] in (0x20, 0x09, 0x0A, 0x0C, 0x0D)
            i += 1


@kernel
def _kept_lines(data: Any, offsets: Any, classes: Any, pairs: Any, phrases: Any, out: Any, bounds: Any) -> None:
    num = 0
    for text in range(len(offsets) - 1):
        i, end, begin = offsets[text], offsets[text + 1], num
        first, last, words, length, longest = -1, -1, 0, 0, 0
        while i <= end:  # one step beyond the end, where the last line is closed
            start = i
            if i < end:
                c, i = decode(data, i)
                kind = classes[c]
            else:
                i, kind = i + 1, SPACE | BREAK
            if not kind & SPACE:
                words += length == 0
                length += 1
                longest = max(longest, length)
                first, last = start if first < 0 else first, i
                continue
            length = 0
            if not kind & BREAK:
                continue
            if words >= MIN_WORDS and longest <= MAX_WORD_CHARACTERS and _stays(data, first, last, pairs, phrases):
                if num > begin:
                    out[num] = 0x0A
                    num += 1
                for k in range(first, last):
                    out[num] = data[k]
                    num += 1
            first, last, words, longest = -1, -1, 0, 0
        bounds[text + 1] = num


@kernel
def _stays(data: Any, first: int, last: int, pairs: Any, phrases: Any) -> bool:
    """By its end and by what stands in it."""
    end = data[last - 1]
    if end not in (0x2E, 0x3F, 0x21, 0x22, 0x27):  # . ? ! " '
        return False
    if last - first >= 3 and end == 0x2E and data[last - 2] == 0x2E and data[last - 3] == 0x2E:
        return False
    found = 0
    for i in range(first, last):
        if data[i] == 0x7B:
            found |= BRACE
        if not pairs[data[i] & 31, data[min(i + 1, last - 1)] & 31]:
            continue
        for phrase in range(len(phrases)):
            if data[i] | 0x20 == phrases[phrase, 0] and _stands_at(data, i, last, phrases[phrase]):
                found |= min(1 << phrase, POLICY)
    if found & LOREM:
        return True
    return not found & JAVASCRIPT and (not found & POLICY or found & BRACE != 0)


@kernel
def _stands_at(data: Any, i: int, last: int, phrase: Any) -> bool:
    for k in range(len(phrase)):
        if phrase[k] == 0:
            return True
        if i + k >= last:
            return False
        c = data[i + k]
        if (c | 0x20 if 0x41 <= c <= 0x5A else c) != phrase[k]:
            return False
    return True
