"""The text of a PDF, page by page, by PDFium, the reader in Chrome. Runs in a process of its own (pipelines/data/apart.py)."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pypdfium2

LOCKED = {4: "encrypted: it opens with a password alone", 5: "encrypted in a way that PDFium does not know"}
"""By PDFium's FPDF_ERR_PASSWORD and FPDF_ERR_SECURITY."""
BETWEEN_PAGES = "\n\n"
HYPHEN = "\x02"
"""Stands for a hyphen at the end of a line where the word goes on in the next: PDFium joins the two."""


def extract(content: bytes, limit: int) -> dict[str, Any]:
    """`text` and `num_pages`; or, as `broken`, why there is none; or `too_large`: the text has more than `limit` bytes."""
    with suppress(pypdfium2.PdfiumError):
        pypdfium2.PdfDocument(b"no PDF")  # else PDFium tells an earlier file's error where it has none for this one
    try:
        document = pypdfium2.PdfDocument(content)
    except pypdfium2.PdfiumError as error:
        return {"broken": LOCKED.get(error.err_code, "not readable as PDF")}
    try:
        return _pages(document, limit)
    finally:
        document.close()


def _pages(document: Any, limit: int) -> dict[str, Any]:
    pages, size = list[str](), 0
    for number in range(len(document)):
        if not (text := _page(document, number)):
            continue
        size += len(text.encode()) + (len(BETWEEN_PAGES) if pages else 0)
        if size > limit:
            return {"too_large": True}
        pages.append(text)
    return {"text": BETWEEN_PAGES.join(pages), "num_pages": len(document)}


def _page(document: Any, number: int) -> str:
    """Its text without white space around it; empty for one that cannot be loaded, as readers show it."""
    try:
        page = document[number]
    except pypdfium2.PdfiumError:
        return ""
    try:
        found: str = page.get_textpage().get_text_bounded()
    except pypdfium2.PdfiumError:
        return ""
    finally:
        page.close()
    return found.replace("\r\n", "\n").replace(HYPHEN, "").strip()
