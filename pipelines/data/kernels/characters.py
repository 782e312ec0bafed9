"""What the kernels must know of each code point, taken from Python's own `str` methods, and how UTF-8 is read."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.compiled import kernel

if TYPE_CHECKING:
    import pyarrow as pa

SPACE, BREAK, ALPHA, BULLET, TERMINAL = 1, 2, 4, 8, 16
"""Bits of a code point's class: str.isspace, ends a line for str.splitlines, str.isalpha, BULLETS, and `terminals()`."""

BULLETS = "•-"

LINE_BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
NUM_CODE_POINTS = 0x110000

SEED = np.uint64(0xCBF29CE484222325)
FACTOR = np.uint64(0x9E3779B97F4A7C15)
"""Of the hash of a run of code points, h = (h ^ c) * FACTOR, as in FNV-1a (Fowler, Noll and Vo) with a wider factor."""


class Buffers(NamedTuple):
    """A column of texts as its two Arrow buffers: text i is data[offsets[i]:offsets[i + 1]]."""

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1


def buffers(texts: pa.Array) -> Buffers:
    """Without a copy; `texts` are large strings, none of them null."""
    _, offsets, data = texts.buffers()
    num = len(texts)
    if num == 0 or offsets is None:
        return Buffers(np.empty(0, np.uint8), np.zeros(1, np.int64))
    bounds = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + num + 1]
    return Buffers(np.frombuffer(data, np.uint8) if data else np.empty(0, np.uint8), bounds)


def array(texts: Buffers) -> pa.Array:
    """The column of large strings over these buffers, without a copy."""
    import pyarrow as pa

    return pa.LargeStringArray.from_buffers(len(texts), pa.py_buffer(texts.offsets), pa.py_buffer(texts.data))


@cache
def classes() -> NDArray[np.uint8]:
    """The bits of every code point."""
    found = np.zeros(NUM_CODE_POINTS, np.uint8)
    text = all_characters()
    for bit, characters in (
        (SPACE, re.findall(r"\s", text)),
        (ALPHA, filter(str.isalpha, re.findall(r"\w", text))),
        (BREAK, LINE_BREAKS),
        (BULLET, BULLETS),
        (TERMINAL, terminals()),
    ):
        found[np.fromiter(map(ord, characters), np.int64)] |= bit
    return found


@cache
def terminals() -> str:
    """Marks that end a sentence: Unicode's property Sentence_Terminal (UAX #44). Quotes are none."""
    import regex

    return "".join(regex.findall(r"\p{Sentence_Terminal}", all_characters()))


@cache
def folded() -> NDArray[np.int32]:
    """Each code point in lower case; 0 for what is no part of a word, below 0 for marks, which go on with one: the vowel signs
    of Indic scripts are marks. See `word()`.

    One to one: İ becomes i, and both forms of the small sigma are one letter.
    """
    found = np.zeros(NUM_CODE_POINTS, np.int32)
    for character in re.findall(r"[^\W_]", all_characters()):
        found[ord(character)] = ord(character.lower()[0])
    found[ord("ς")] = ord("σ")
    for mark in marks():
        found[ord(mark)] = -ord(mark)
    return found


@cache
def marks() -> str:
    """What belongs to the letter before it: Unicode's category M, of the planes that have any."""
    points = (*range(0x300, 0x20000), *range(0xE0100, 0xE01F0))
    return "".join(chr(point) for point in points if unicodedata.category(chr(point))[0] == "M")


@cache
def word() -> re.Pattern[str]:
    """What `tokens.plain_words` takes for one."""
    return re.compile(rf"[^\W_](?:[^\W_]|[{marks()}])*")


@cache
def all_characters() -> str:
    """Of Unicode, in order, without the surrogates."""
    points = np.delete(np.arange(NUM_CODE_POINTS, dtype="<u4"), np.s_[0xD800:0xE000])  # without the surrogates
    return points.tobytes().decode("utf-32-le")


@kernel
def decode(data: Any, i: int) -> tuple[int, int]:
    """The code point that begins at byte i of valid UTF-8, and where the next one begins."""
    first = data[i]
    if first < 0x80:
        return first | 0, i + 1
    if first < 0xE0:
        return (first & 0x1F) << 6 | (data[i + 1] & 0x3F), i + 2
    if first < 0xF0:
        return (first & 0x0F) << 12 | (data[i + 1] & 0x3F) << 6 | (data[i + 2] & 0x3F), i + 3
    tail = (data[i + 1] & 0x3F) << 12 | (data[i + 2] & 0x3F) << 6 | (data[i + 3] & 0x3F)
    return (first & 0x07) << 18 | tail, i + 4


@kernel
def mix(x: np.uint64) -> np.uint64:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): every bit of the input changes half of the output's."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
