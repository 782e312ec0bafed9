"""Words, lines and paragraphs of each text: counted, measured and hashed in one pass each."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.compiled import kernel
from pipelines.data.kernels.characters import (
    ALPHA,
    BREAK,
    BULLET,
    FACTOR,
    SEED,
    SPACE,
    TERMINAL,
    Buffers,
    classes,
    decode,
    folded,
    mix,
)

Int64s = NDArray[np.int64]

NEWLINE, RETURN, NUMBER_SIGN, DOT, ELLIPSIS = 0x0A, 0x0D, 0x23, 0x2E, 0x2026


class Pieces(NamedTuple):
    """Those of text i are [bounds[i], bounds[i + 1])."""

    hashes: NDArray[np.uint64]
    lengths: NDArray[np.int32]
    """In characters."""
    bounds: Int64s


class Words(NamedTuple):
    """What white space separates."""

    pieces: Pieces
    num_characters: Int64s
    """Of the whole text, with its white space."""
    num_word_characters: Int64s
    num_with_letter: Int64s
    num_number_signs: Int64s
    num_ellipses: Int64s


class Lines(NamedTuple):
    """Without the white space around them; empty ones left out. Paragraphs, the same, stand between empty lines."""

    pieces: Pieces
    paragraphs: Pieces
    num_bullets: Int64s
    """Lines that begin with a bullet."""
    num_ellipses: Int64s
    """Lines that end with an ellipsis."""
    num_terminated: Int64s
    """Lines that end with a terminal mark."""
    num_short: Int64s
    num_newlines: Int64s
    num_with_empty: Int64s
    """Lines as str.splitlines has them, the empty ones counted."""


def words(texts: Buffers) -> Words:
    most = room(texts)
    hashes, lengths = np.empty(most, np.uint64), np.empty(most, np.int32)
    bounds, counts = np.zeros(len(texts) + 1, np.int64), np.zeros((5, len(texts)), np.int64)
    _words(texts.data, texts.offsets, classes(), hashes, lengths, bounds, counts)
    return Words(Pieces(hashes, lengths, bounds), *counts)


def lines(texts: Buffers, short_line_length: int) -> Lines:
    """`short_line_length`: lines of at most so many characters are short."""
    most = room(texts)
    hashes, lengths = np.empty((2, most), np.uint64), np.empty((2, most), np.int32)
    bounds, counts = np.zeros((2, len(texts) + 1), np.int64), np.zeros((6, len(texts)), np.int64)
    _lines(texts.data, texts.offsets, classes(), short_line_length, hashes, lengths, bounds, counts)
    each, paragraphs = (Pieces(hashes[k], lengths[k], bounds[k]) for k in (0, 1))
    return Lines(each, paragraphs, *counts)


def plain_words(texts: Buffers) -> tuple[NDArray[np.uint64], Int64s]:
    """Hashes of the words in lower case and without punctuation, and the bounds of each text's."""
    hashes, bounds = np.empty(room(texts), np.uint64), np.zeros(len(texts) + 1, np.int64)
    _plain_words(texts.data, texts.offsets, folded(), hashes, bounds)
    return hashes, bounds


def room(texts: Buffers) -> int:
    """Most pieces that can be: one every other byte. Pages that are never written take no memory."""
    return int(texts.offsets[-1] - texts.offsets[0] + len(texts)) // 2 + 1


@kernel
def _words(data: Any, offsets: Any, classes: Any, hashes: Any, lengths: Any, bounds: Any, counts: Any) -> None:
    num = 0
    for text in range(len(offsets) - 1):
        i, end = offsets[text], offsets[text + 1]
        h, length, letters, dots = SEED, 0, 0, 0
        characters, inside, with_letter, signs, ellipses = 0, 0, 0, 0, 0
        while i < end:
            c, i = decode(data, i)
            kind = classes[c]
            characters += 1
            if kind & SPACE:
                if length:
                    hashes[num], lengths[num] = mix(h), length
                    num, inside, with_letter = num + 1, inside + length, with_letter + (letters != 0)
                    h, length, letters = SEED, 0, 0
            else:
                h, length, letters = (h ^ np.uint64(c)) * FACTOR, length + 1, letters | (kind & ALPHA)
            signs += c == NUMBER_SIGN
            dots = dots + 1 if c == DOT else 0
            if dots == 3 or c == ELLIPSIS:
                ellipses, dots = ellipses + 1, 0
        if length:
            hashes[num], lengths[num] = mix(h), length
            num, inside, with_letter = num + 1, inside + length, with_letter + (letters != 0)
        bounds[text + 1] = num
        counts[0, text], counts[1, text], counts[2, text] = characters, inside, with_letter
        counts[3, text], counts[4, text] = signs, ellipses


@kernel
def _lines(
    data: Any, offsets: Any, classes: Any, short: int, hashes: Any, lengths: Any, bounds: Any, counts: Any
) -> None:
    """`h` is the hash up to here, `kept` that up to the last character that is no white space; so with lengths."""
    num, num_paragraphs = 0, 0
    for text in range(len(offsets) - 1):
        i, end = offsets[text], offsets[text + 1]
        h, kept, length, kept_length = SEED, SEED, 0, 0
        ph, pkept, plength, pkept_length, gap = SEED, SEED, 0, 0, 0
        bullet, dots, last, before, open_line = 0, 0, 0, 0, 0
        while i <= end:  # one step beyond the end, where the last line and paragraph are closed
            if i < end:
                c, i = decode(data, i)
                kind = classes[c]
            else:
                c, i, kind, gap = NEWLINE, i + 1, SPACE | BREAK, 2
            if kind & BREAK:
                if kept_length:
                    hashes[0, num], lengths[0, num] = mix(kept), kept_length
                    num += 1
                    counts[0, text] += bullet
                    counts[1, text] += last == ELLIPSIS or abs(dots) >= 3
                    counts[2, text] += classes[last] & TERMINAL != 0
                    counts[3, text] += kept_length <= short
                h, length, kept_length, bullet, dots = SEED, 0, 0, 0, 0
                counts[5, text] += open_line or (i <= end and not (c == NEWLINE and before == RETURN))
            open_line, before = not kind & BREAK, c
            if c == NEWLINE:
                counts[4, text] += i <= end
                gap += 1
                if gap >= 2 and pkept_length:
                    hashes[1, num_paragraphs], lengths[1, num_paragraphs] = mix(pkept), pkept_length
                    num_paragraphs += 1
                    ph, plength, pkept_length = SEED, 0, 0
            else:
                gap = 0
            if plength or not kind & SPACE:
                ph, plength = (ph ^ np.uint64(c)) * FACTOR, plength + 1
            if kind & SPACE:
                if length and not kind & BREAK:
                    h, length = (h ^ np.uint64(c)) * FACTOR, length + 1
                    dots = -dots if dots > 0 else dots  # a run of dots may not go on behind white space
                continue
            if length == 0:
                bullet = kind & BULLET != 0
            dots = (dots + 1 if dots > 0 else 1) if c == DOT else 0
            h, length, last = (h ^ np.uint64(c)) * FACTOR, length + 1, c
            kept, kept_length, pkept, pkept_length = h, length, ph, plength
        bounds[0, text + 1], bounds[1, text + 1] = num, num_paragraphs


@kernel
def _plain_words(data: Any, offsets: Any, folded: Any, hashes: Any, bounds: Any) -> None:
    num = 0
    for text in range(len(offsets) - 1):
        i, end = offsets[text], offsets[text + 1]
        h, inside = SEED, False
        while i < end:
            c, i = decode(data, i)
            c = folded[c]
            if c > 0 or (c < 0 and inside):
                h, inside = (h ^ np.uint64(abs(c))) * FACTOR, True
            elif inside:
                hashes[num] = mix(h)
                num, h, inside = num + 1, SEED, False
        if inside:
            hashes[num] = mix(h)
            num += 1
        bounds[text + 1] = num
