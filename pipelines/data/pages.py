"""Text out of bytes: encodings, and the article out of a page."""

from __future__ import annotations

import codecs
import re

NOT_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
"""Control characters but white space and escape."""
META_CHARSET = re.compile(rb"<meta[^>]+charset\s*=\s*[\"']?\s*([A-Za-z0-9_-]+)", re.IGNORECASE)


def decode(content: bytes, declared: str | None = None) -> str | None:
    """UTF-8, UTF-16 with its mark, what is declared, Windows-1252 for the rest; None for what is no text."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace")
    if NOT_TEXT.search(content) and len(NOT_TEXT.findall(content)) > len(content) / 100:
        return None
    for encoding in ("utf-8-sig", declared or "utf-8"):
        try:
            return content.decode(encoding)
        except (UnicodeError, LookupError, ValueError):  # Python's own codecs such as `undefined` raise the first
            continue
    return content.decode("windows-1252", "replace")


def declared_charset(page: bytes) -> str | None:
    """What a `meta` element near the beginning of a page says."""
    found = META_CHARSET.search(page[:4096])
    return found.group(1).decode() if found else None


def main_text(page: str) -> str | None:
    """The article without navigation, comments and boilerplate (Barbaresi 2021, trafilatura)."""
    import trafilatura

    try:
        return trafilatura.extract(page, include_comments=False, deduplicate=False) or None
    except RecursionError:  # elements nested by the thousand
        return None


def storable(text: str) -> str:
    """Without lone surrogates, which JSON can spell and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
