"""What a fastText model's file says of itself, and whether it is all there.

fastText (version 0.9.2) checks nothing but the first eight bytes: of a file that is cut off it makes a model of whatever lies in
memory, or reads for ever. So all lengths in the file are followed here to its last byte, as fastText writes them, and the sizes of
the matrices held against the dictionary's, before the file is given to it.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

MAGIC: Final = 793_712_314
FORMAT: Final = 12
"""Since fastText 0.1.0, of 2017."""
SUPERVISED: Final = 3
NUM_CENTROIDS: Final = 256
"""Of a product quantizer: codes are bytes."""
LABEL: Final = 1
"""Type of an entry of the dictionary; 0 is a word."""
MAX_WORD_BYTES: Final = 1 << 20


class NotModel(Exception):
    """What is wrong with the file, in words for people."""


class Described(NamedTuple):
    labels: tuple[str, ...]
    num_words: int
    is_quantized: bool


def describe(path: Path) -> Described:
    """The labels of the supervised model in this file.

    Raises:
        NotModel: it is none, or damaged.
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        return _described(_Reader(stream, path.stat().st_size))


class _Reader:
    """The file's numbers, one after the other, never more than there is."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self.stream, self.size = stream, size

    def numbers(self, form: str) -> tuple[Any, ...]:
        """By struct's format, little-endian as on every machine that fastText runs on."""
        size = struct.calcsize(f"<{form}")
        content = self.stream.read(size)
        if len(content) < size:
            raise self.cut_off()
        return struct.unpack(f"<{form}", content)

    def word(self) -> bytes:
        found = bytearray()
        while (byte := self.stream.read(1)) != b"\0":
            if not byte:
                raise self.cut_off()
            if len(found) == MAX_WORD_BYTES:
                raise NotModel("damaged: a word that does not end")
            found += byte
        return bytes(found)

    def skip(self, num_bytes: int) -> None:
        if num_bytes < 0 or self.stream.tell() + num_bytes > self.size:
            raise self.cut_off()
        self.stream.seek(num_bytes, 1)

    def cut_off(self) -> NotModel:
        return NotModel(f"damaged: more is announced than its {self.size} bytes have")


def _described(reader: _Reader) -> Described:
    if reader.size < 8 or reader.numbers("i")[0] != MAGIC:
        raise NotModel("no model of fastText")
    if (version := reader.numbers("i")[0]) != FORMAT:
        raise NotModel(f"a model in format {version} of fastText; {FORMAT} is read")
    dim, *_, model, bucket, _, _, _, _ = reader.numbers("12id")
    if model != SUPERVISED:
        raise NotModel("word vectors, no classifier: a supervised model of fastText has labels")
    labels, num_words, num_kept = _dictionary(reader)
    (is_quantized,) = reader.numbers("?")
    rows = num_words + (bucket if num_kept is None else num_kept)
    if num_kept is not None and not is_quantized:
        raise NotModel("damaged: a dictionary that was pruned and a matrix that was not")
    _matrix(reader, (rows, dim), quantized=is_quantized)
    (output_too,) = reader.numbers("?")
    _matrix(reader, (len(labels), dim), quantized=is_quantized and output_too)
    if left := reader.size - reader.stream.tell():
        raise NotModel(f"damaged: {left} bytes behind its end")
    return Described(labels, num_words, is_quantized)


def _dictionary(reader: _Reader) -> tuple[tuple[str, ...], int, int | None]:
    """Labels, the number of words, and how many n-grams are kept where it was pruned."""
    size, num_words, num_labels, _, num_pruned = reader.numbers("3i2q")
    if min(num_words, num_labels) < 0 or size != num_words + num_labels:
        raise NotModel(f"damaged: a dictionary of {size} entries with {num_words} words and {num_labels} labels")
    labels = list[str]()
    for number in range(size):
        word = reader.word()
        _, kind = reader.numbers("qb")
        if (kind == LABEL) != (number >= num_words):
            raise NotModel("damaged: words and labels in disorder")
        if kind == LABEL:
            labels.append(word.decode("utf-8", "replace"))
    for number in range(max(num_pruned, 0)):
        _, place = reader.numbers("2i")
        if not 0 <= place < num_pruned:
            raise NotModel(f"damaged: n-gram {number} of {num_pruned} stands at {place}")
    return tuple(labels), num_words, num_pruned if num_pruned >= 0 else None


def _matrix(reader: _Reader, shape: tuple[int, int], *, quantized: bool) -> None:
    has_norms = quantized and reader.numbers("?")[0]
    found = reader.numbers("2q")
    if found != shape:
        raise NotModel(f"damaged: a matrix of {found[0]} x {found[1]} where {shape[0]} x {shape[1]} belong")
    if not quantized:
        reader.skip(4 * shape[0] * shape[1])
        return
    (num_codes,) = reader.numbers("i")
    reader.skip(num_codes)
    if num_codes != shape[0] * _quantizer(reader, shape[1]):
        raise NotModel(f"damaged: {num_codes} codes for {shape[0]} rows")
    if has_norms:
        reader.skip(shape[0])
        _quantizer(reader, 1)


def _quantizer(reader: _Reader, dim: int) -> int:
    """How many codes it has for a row of `dim` numbers."""
    found, num_parts, size, last = reader.numbers("4i")
    if found != dim or size < 1 or num_parts != -(-dim // size) or last != dim - (num_parts - 1) * size:
        raise NotModel(f"damaged: a quantizer of {num_parts} parts of {size} for {dim} numbers")
    reader.skip(4 * dim * NUM_CENTROIDS)
    return num_parts
