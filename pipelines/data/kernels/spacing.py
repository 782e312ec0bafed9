"""White space put in order in one pass, and which texts an expression could match at all."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.compiled import kernel
from pipelines.data.kernels.characters import Buffers, decode

GAP, BREAK, INK = 1, 2, 0
"""Of a code point: a tab or a space separator (Zs); a line break that joins lines to paragraphs; anything else."""

ADDRESS, REFERENCE = 1, 2
"""Bits of a text: it has what every address begins with; what every bracketed reference does."""

SPACE_SEPARATORS = "\t \xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
FORM_FEED, NEWLINE, RETURN, BLANK = 0x0C, 0x0A, 0x0D, 0x20


def collapsed(texts: Buffers) -> Buffers:
    """Each text with CR and CR LF as newlines, one space for what is tabs and spaces behind other characters, none of it at
    the ends of lines, at most one empty line in a row and none at either end. Indentation stays."""
    data, offsets = np.empty(len(texts.data) + 1, np.uint8), np.zeros(len(texts) + 1, np.int64)
    _collapse(texts.data, texts.offsets, _kinds(), data, offsets)
    return Buffers(data, offsets)


def hints(texts: Buffers) -> NDArray[np.uint8]:
    """The bits of each text."""
    found = np.zeros(len(texts), np.uint8)
    _hints(texts.data, texts.offsets, found)
    return found


@cache
def _kinds() -> NDArray[np.uint8]:
    """Of the code points up to the last that is no ink."""
    found = np.zeros(ord(SPACE_SEPARATORS[-1]) + 1, np.uint8)
    found[list(map(ord, SPACE_SEPARATORS))] = GAP
    found[[NEWLINE, RETURN]] = BREAK
    return found


@kernel
def _collapse(data: Any, offsets: Any, kinds: Any, out: Any, bounds: Any) -> None:
    num = 0
    for text in range(len(offsets) - 1):
        i, end, first = offsets[text], offsets[text + 1], num
        breaks, gap, behind_ink = 0, -1, False
        while i < end:
            start = i
            if behind_ink and gap < 0 and BLANK < data[i] < 0x80:  # within a word
                out[num], num, i = data[i], num + 1, i + 1
                continue
            c, i = decode(data, i)
            kind = kinds[c] if c < len(kinds) else INK
            if kind == GAP:
                gap = start if gap < 0 else gap
                continue
            if kind == BREAK:
                if c == RETURN and i < end and data[i] == NEWLINE:
                    i += 1
                breaks, gap, behind_ink = breaks + 1, -1, False
                continue
            if breaks and num > first:
                for _ in range(min(breaks, 2)):
                    out[num] = NEWLINE
                    num += 1
            if gap >= 0 and behind_ink:
                out[num] = BLANK
                num += 1
            for k in range(start if gap < 0 or behind_ink else gap, i):
                out[num] = data[k]
                num += 1
            breaks, gap, behind_ink = 0, -1, c != FORM_FEED  # white space to RE2: what follows stays as it is
        bounds[text + 1] = num


@kernel
def _hints(data: Any, offsets: Any, found: Any) -> None:
    for text in range(len(offsets) - 1):
        first, end, seen = offsets[text], offsets[text + 1], 0
        for i in range(first + 1, end):
            c = data[i]
            if c == 0x2F:  # "://"
                if data[i - 1] == 0x2F and i - 2 >= first and data[i - 2] == 0x3A:
                    seen |= ADDRESS
            elif c == 0x2E:  # "www."
                www = i - 3 >= first
                for k in range(i - 3, i):
                    www = www and data[k] | 0x20 == 0x77
                if www:
                    seen |= ADDRESS
            elif data[i - 1] == 0x5B and (0x31 <= c <= 0x39 or c in (0x63, 0x6E)):  # "[1", "[citation", "[note"
                seen |= REFERENCE
        found[text] = seen
