"""The text of PDF files: a document a file, its pages one after the other with an empty line between them.

It is what a reader shows as text, in the order in which the file has it: columns and tables are as good as that order. Pages that
are pictures have none: they would need character recognition. Fields of forms, notes and attachments are not read.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from pipelines.data.apart import Apart, Ended
from pipelines.data.document import DropReason
from pipelines.data.pages import storable

VERSION = 1
"""Another one where another text comes of the same file. Part of the key of versions that are made of PDFs."""
MAX_BYTES = 256_000_000
"""Of a file, which must be read whole. Most of a large one is pictures: how long its text may be is another matter."""
MEMORY_BYTES = 2 << 30
CPU_S = 60.0
"""A manual of 36 pages takes 0.05 s. What takes longer than this is damaged, or made to take long."""


class Found(NamedTuple):
    text: str
    reason: DropReason | None = None
    detail: str = ""


def text_of(content: bytes, limit: int) -> Found:
    """The text in a PDF file of these bytes, or why there is none of at most `limit` bytes."""
    try:
        found = _reader()(content, limit=limit)
    except Ended as error:
        return Found("", "unreadable", f"not readable as PDF: {error}")
    if broken := found.get("broken"):
        return Found("", "unreadable", broken)
    if found.get("too_large"):
        return Found("", "too_large", f"more than {limit} bytes of text allowed; the rest was not read")
    if not found["text"]:
        return Found("", "no_text", f"none of {found['num_pages']} pages has text: pictures, or nothing")
    return Found(storable(found["text"]))


def used_cpu_s() -> float:
    """Processor time that reading has taken in its own process, for this one."""
    return _reader().used_cpu_s


@cache
def _reader() -> Apart:
    """One a process. It starts with the first file."""
    return Apart("pipelines.data.pdf_text:extract", MEMORY_BYTES, CPU_S)
