"""Texts of documents in the report's page: escaped, differences marked, and what no reader sees made visible."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from html import escape

from pipelines.data.report.excerpt import pieces
from pipelines.data.report.figures import Change, Sample

SHOWN = {" ": "␣", "\n": "↵\n", "\t": "⇥", "\r": "\\r"}
"""White space in what differs."""
UNSEEN = frozenset({"Cc", "Cf", "Co", "Cn", "Cs", "Zl", "Zp"})
"""Unicode's categories of characters that have no shape of their own."""
JOINERS = "\u200c\u200d"
"""Persian, Indic scripts and emoji are spelt with them."""


def samples(found: Iterable[Sample]) -> str:
    return "".join(
        f"<div>{escape(sample.id)} <small>{escape(sample.detail)}</small></div><pre>{text(sample.text) or '(no text)'}</pre>"
        for sample in found
    )


def changes(found: Iterable[Change], before: str, after: str) -> str:
    """Side by side under these headings."""
    return "".join(
        f'<div class="pair"><div>{escape(one.id)}</div><div><small>{before}</small><pre>{old}</pre></div>'
        f"<div><small>{after}</small><pre>{new}</pre></div></div>"
        for one in found
        for old, new in [marked(one.before, one.after)]
    )


def marked(before: str, after: str) -> tuple[str, str]:
    """Both as HTML: what the other one has not is marked."""
    old, new = list[str](), list[str]()
    for piece in pieces(before, after):
        if piece.is_same:
            old.append(text(piece.before))
            new.append(text(piece.after))
            continue
        old += [f"<del>{text(piece.before, spaces=True)}</del>"] if piece.before else []
        new += [f"<ins>{text(piece.after, spaces=True)}</ins>"] if piece.after else []
    return "".join(old), "".join(new)


def text(value: str, *, spaces: bool = False) -> str:
    """Escaped. Characters that nobody sees, or that turn the line around, are written as their code point.

    Args:
        spaces: make white space visible as well, unless it is single spaces between words.
    """
    told = spaces and (not value.strip() or "  " in value or any(space in value for space in "\n\t\r"))
    return "".join(_seen(character, spaces=told, joiners=spaces) for character in value)


def _seen(character: str, *, spaces: bool, joiners: bool) -> str:
    if spaces and character in SHOWN:
        return SHOWN[character]
    if character in "\n\t" or (character in JOINERS and not joiners) or unicodedata.category(character) not in UNSEEN:
        return escape(character)
    return f"<code>U+{ord(character):04X}</code>"
