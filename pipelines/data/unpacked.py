"""The bytes of a web archive one after the other, unpacked where they are packed, with their place in the file."""

from __future__ import annotations

import re
import zlib
from typing import Any

BLOCK = 1 << 16
"""Bytes unpacked at a time, however little was packed."""
RAW_BLOCK = 1 << 20
"""Bytes read at a time: over S3 each is a request."""
MAGIC = b"\x1f\x8b\x08"
FIRST_LINE = rb"(?:WARC/\d|(?:https?|ftp|dns|filedesc):\S{1,2000} \S{1,60} \d{8,20} \S{1,100} -?\d+\r?\n)"
"""Of a record of WARC, or of ARC 1.0."""
RECORD = re.compile(FIRST_LINE)
RECORD_BEHIND_LINE = re.compile(rb"\n" + FIRST_LINE)
MEMBER = re.compile(re.escape(MAGIC))
OVERLAP = 4_096
"""Bytes looked at twice while searching: more than RECORD spans."""


class TooMuch(Exception):
    """More bytes than the budget has."""


class Unpacked:
    """What warcio reads from: `read` and `readline`, both bounded by `budget`."""

    def __init__(self, raw: Any) -> None:
        self.budget: int | None = None
        """Bytes that may still be read; None: any number."""
        self.num_read = 0
        self._raw = raw
        self._packed = raw.read(len(MAGIC)) == MAGIC
        self._go_to(0)

    def _go_to(self, place: int) -> None:
        self._raw.seek(place)
        self._buffer, self._next = b"", 0
        self._read_to = self._member = place
        self._waiting = b""  # read and not unpacked yet
        self._inflate: Any = None

    @property
    def at(self) -> int:
        """Where the next byte lies in the file; of what is packed, where the gzip member begins that holds it."""
        return self._member if self._packed else self._read_to - len(self._buffer) + self._next

    def read(self, size: int) -> bytes:
        """That many bytes, fewer at the end of the file only."""
        parts, left = list[bytes](), size
        while left > 0 and (self._next < len(self._buffer) or self._fill()):
            part = self._buffer[self._next : self._next + left]
            self._next += len(part)
            left -= len(part)
            self._spend(len(part))
            parts.append(part)
        return b"".join(parts)

    def readline(self, size: int | None = None) -> bytes:
        """To the end of the line, at most `size` bytes."""
        parts, left = list[bytes](), size if size is not None else 1 << 62
        while left > 0 and (self._next < len(self._buffer) or self._fill()):
            end = self._buffer.find(b"\n", self._next, self._next + left) + 1 or min(
                len(self._buffer), self._next + left
            )
            part = self._buffer[self._next : end]
            self._next, left = end, left - len(part)
            self._spend(len(part))
            parts.append(part)
            if part.endswith(b"\n"):
                break
        return b"".join(parts)

    def _spend(self, num: int) -> None:
        self.num_read += num
        if self.budget is not None:
            self.budget -= num
            if self.budget < 0:
                raise TooMuch("more than is allowed")

    def skip_empty_lines(self) -> bool:
        """To the first byte that is no line break; False: there is none."""
        while self._next < len(self._buffer) or self._fill():
            left = self._buffer[self._next :].lstrip(b"\r\n")
            self._next = len(self._buffer) - len(left)
            if left:
                return True
        return False

    def find_next(self, start: int) -> bool:
        """To the next place behind `start` where a record seems to begin; False: there is none."""
        place, before = start + 1, b""
        self._raw.seek(place)
        while block := self._raw.read(RAW_BLOCK):
            window = before + block
            for found in (MEMBER if self._packed else RECORD_BEHIND_LINE).finditer(window):
                begins = place - len(before) + found.start() + (0 if self._packed else 1)
                if self._packed and not self._holds_record(begins):
                    continue
                self._go_to(begins)
                return True
            before, place = window[-OVERLAP:], place + len(block)
            self._raw.seek(place)
        self._go_to(place)
        return False

    def _holds_record(self, place: int) -> bool:
        """Whether what begins there is a gzip member with a record in it, and not three bytes that look so."""
        self._raw.seek(place)
        try:
            beginning = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(self._raw.read(OVERLAP), OVERLAP)
        except zlib.error:
            return False
        return bool(RECORD.match(beginning.lstrip(b"\r\n")))

    def _fill(self) -> bool:
        """The next bytes in the place of those that were read; False at the end of the file."""
        self._buffer, self._next = b"", 0
        if not self._packed:
            self._buffer = self._raw.read(RAW_BLOCK)
            self._read_to += len(self._buffer)
            return bool(self._buffer)
        while not self._buffer:
            if self._inflate is None:
                self._member = self._read_to - len(self._waiting)
            if not self._waiting:
                self._waiting = self._raw.read(RAW_BLOCK)
                self._read_to += len(self._waiting)
            if not self._waiting:
                return False
            self._inflate = self._inflate or zlib.decompressobj(zlib.MAX_WBITS | 16)
            self._buffer = self._inflate.decompress(self._waiting, BLOCK)
            self._waiting = self._inflate.unconsumed_tail or self._inflate.unused_data
            if self._inflate.eof:
                self._inflate = None
        return True
