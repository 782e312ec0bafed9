"""Where two texts differ: cut to the same place in both, and the pieces that one of them alone has. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from itertools import takewhile
from typing import NamedTuple

CONTEXT = 60
"""Characters around a difference."""
MOST = 260
"""Characters of an excerpt, about."""
COMPARED = 2_000
"""Characters from the first difference on that are compared word by word."""
CUT = "…"

TOKEN = re.compile(r"\w+|\s|[^\w\s]")


class Piece(NamedTuple):
    """What both have (the two are the same), or what stands in one in the place of what stands in the other."""

    before: str
    after: str

    @property
    def is_same(self) -> bool:
        return self.before == self.after


def pieces(before: str, after: str) -> list[Piece]:
    """Of both texts in order, by words, marks and single white-space characters."""
    old, new = TOKEN.findall(before), TOKEN.findall(after)
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    return [Piece("".join(old[a:b]), "".join(new[c:d])) for _, a, b, c, d in matcher.get_opcodes()]


def excerpt(before: str, after: str) -> tuple[str, str]:
    """Both around their first differences; of what both have between two of them, and of long pieces, the middle is left out."""
    same = _num_same(before, after)
    start = _word_start(before, same)
    at_end = min(_num_same(before[::-1], after[::-1]), min(len(before), len(after)) - same)
    old, new = before[same : len(before) - at_end], after[same : len(after) - at_end]
    if old and new:
        found = _compared(before, after, start)
    else:  # one piece came or went, however long
        head, tail = before[start:same], before[len(before) - at_end :]
        found = [Piece(head, head), Piece(old, new), Piece(tail, tail)]
    kept = list(_until_full(found))
    if kept and kept[-1].is_same:
        kept[-1] = Piece(*[_head(kept[-1].before)] * 2)
    lead = CUT if start else ""
    return lead + "".join(piece.before for piece in kept), lead + "".join(piece.after for piece in kept)


def _num_same(one: Iterable[str], other: Iterable[str]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _compared(before: str, after: str, start: int) -> list[Piece]:
    found = pieces(before[start : start + COMPARED], after[start : start + COMPARED])
    is_cut = len(before) > start + COMPARED or len(after) > start + COMPARED
    if is_cut and not found[-1].is_same:  # what one of them has beyond the other is only where they were cut
        found[-1] = Piece(CUT, CUT)
    return found


def _word_start(text: str, place: int) -> int:
    """About CONTEXT characters before the place, where a word begins."""
    start = max(place - CONTEXT, 0)
    found = re.compile(r"\s").search(text, start, place) if start else None
    return found.end() if found else start


def _until_full(parts: list[Piece]) -> Iterator[Piece]:
    length = 0
    for number, piece in enumerate(parts):
        if length > MOST:
            yield Piece(CUT, CUT)
            return
        cut = piece
        if (number and number < len(parts) - 1) or not piece.is_same:
            cut = Piece(_without_middle(piece.before), _without_middle(piece.after))
        yield cut
        length += max(len(cut.before), len(cut.after)) if number < len(parts) - 1 else 0


def _without_middle(text: str) -> str:
    return text if len(text) <= 2 * CONTEXT + 20 else f"{text[:CONTEXT]} {CUT} {text[-CONTEXT:]}"


def _head(text: str) -> str:
    return text if len(text) <= 2 * CONTEXT else text[:CONTEXT] + CUT


def around(text: str, start: int, end: int) -> str:
    """The characters of a span and those around it."""
    first, last = _word_start(text, start), min(end + 2 * CONTEXT, len(text))
    return (CUT if first else "") + text[first:last] + (CUT if last < len(text) else "")
