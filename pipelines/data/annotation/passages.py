"""A document cut into passages that a model can take: between paragraphs, else between sentences or words."""

from __future__ import annotations

from collections.abc import Sequence

BORDERS = ("\n\n", "\n", ". ", " ")


def passages(text: str, max_characters: int) -> list[tuple[int, int]]:
    """Where each begins and ends, in characters; together they are the text."""
    found, start = list[tuple[int, int]](), 0
    while len(text) - start > max_characters:
        end = _border(text, start, start + max_characters)
        found.append((start, end))
        start = end
    return [*found, (start, len(text))] if start < len(text) else found


def _border(text: str, start: int, limit: int) -> int:
    """The last border in the second half: a passage is never cut much too short for the sake of one."""
    middle = (start + limit) // 2
    for border in BORDERS:
        if (place := text.rfind(border, middle, limit)) >= 0:
            return place + len(border)
    return limit


def context(text: str, spans: Sequence[tuple[int, int]], max_characters: int) -> str:
    """A piece of the text around these spans, from paragraph to paragraph where that is not too much; with less, the spans
    come first."""
    start, end = min(span[0] for span in spans), max(span[1] for span in spans)
    room = max(max_characters - (end - start), 0) // 2
    low, high = max(start - room, 0), min(end + room, len(text))
    if low:
        low = next((p + len(b) for b in BORDERS if (p := text.find(b, low, start)) >= 0), low)
    if high < len(text):
        high = next((p + len(b) for b in BORDERS if (p := text.rfind(b, end, high)) >= 0), high)
    return text[low:high].strip()
