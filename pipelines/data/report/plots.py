"""Figures of a dataset's report as inline SVG, without a script or a library. Pure; whatever is text is escaped.

Colours are classes, which the page's style sets for light and for dark. What a shape says is also written, or told on hovering.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

WIDTH, ROW, LEFT, RIGHT = 720, 26, 190, 150
BAR = 16
MOST_LABEL = 28
"""Characters; about what LEFT has room for."""


class Bar(NamedTuple):
    label: str
    value: float
    note: str
    """Written behind the bar."""
    low: float | None = None
    high: float | None = None
    mark: float | None = None
    """Where a line stands across: what is asked for."""
    tone: str = "k0"
    """Class of the bar."""


class Part(NamedTuple):
    name: str
    value: float
    tone: str


def bars(title: str, rows: Sequence[Bar], tones: Sequence[tuple[str, str]] = ()) -> str:
    """One below the other, from 0 to the largest, with intervals and marks where there are any.

    Args:
        tones: what each class of bar stands for, for a legend.
    """
    top = max((end for row in rows for end in (row.value, row.high or 0, row.mark or 0)), default=0) or 1
    legend, height = _legend(tones) if tones else ([], 0)
    parts = [_open(title, height + ROW * len(rows) + 4), *legend]
    for number, row in enumerate(rows):
        y = height + ROW * number + 4
        parts += (*_label(row.label, y), _rect(row.tone, 0, row.value / top, y, f"{row.label}: {row.note}"))
        if row.low is not None and row.high is not None:
            parts.append(_whisker(row.low / top, row.high / top, y))
        if row.mark is not None:
            at = _x(row.mark / top)
            parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{y - 3}" y2="{y + BAR + 3}"/>')
        parts.append(f'<text class="tick" x="{WIDTH - RIGHT + 10}" y="{y + 13}">{escape(row.note)}</text>')
    return "".join((*parts, "</svg>"))


def stacked(title: str, rows: Sequence[tuple[str, str, Sequence[Part]]]) -> str:
    """(label, note, parts): each row from 0 to 100 %, parted; with a legend of the parts that occur."""
    tones = dict.fromkeys((part.name, part.tone) for _, _, parts in rows for part in parts)
    legend, height = _legend(list(tones))
    drawn = [_open(title, height + ROW * len(rows) + 4), *legend]
    for number, (label, note, parts) in enumerate(rows):
        y, done, total = height + ROW * number + 4, 0.0, sum(part.value for part in parts) or 1
        drawn += _label(label, y)
        for part in parts:
            told = f"{label}, {part.name}: {part.value:,.0f} ({100 * part.value / total:.1f} %)"
            drawn.append(_rect(part.tone, done / total, (done + part.value) / total, y, told))
            done += part.value
        drawn.append(f'<text class="tick" x="{WIDTH - RIGHT + 10}" y="{y + 13}">{escape(note)}</text>')
    return "".join((*drawn, "</svg>"))


def columns(title: str, labels: Sequence[str], series: Sequence[Part], values: Sequence[Sequence[float]]) -> str:
    """Groups of columns, a group for each label and in it a column for each of the series; shares, 0 to 1.

    Args:
        series: their names and tones.
        values: of each label one for each of the series.
    """
    legend, top = _legend([(one.name, one.tone) for one in series]) if len(series) > 1 else ([], 0)
    top, high, left = top + 18, 150, 48
    most = max((value for group in values for value in group), default=0) or 1
    step = (WIDTH - left) / max(len(labels), 1)
    wide = min(step * 0.8 / len(series), 40)
    parts = [_open(title, top + high + 26), *legend]
    for share in (0.0, 0.5, 1.0):
        y = top + high * (1 - share)
        parts.append(f'<line class="axis" x1="{left}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="tick" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{100 * share * most:.3g} %</text>'
        )
    every = -(-len(labels) * 60 // (WIDTH - left))
    for number, (label, group) in enumerate(zip(labels, values, strict=True)):
        middle = left + step * (number + 0.5)
        for at, (one, value) in enumerate(zip(series, group, strict=True)):
            x, tall = middle + wide * (at - len(series) / 2), high * value / most
            told = escape(f"{label}, {one.name}: {100 * value:.2f} %")
            parts.append(
                f'<rect class="{one.tone}" x="{x:.1f}" y="{top + high - tall:.1f}" width="{wide - 1:.1f}" height="{tall:.1f}">'
                f"<title>{told}</title></rect>"
            )
        if number % every == 0:
            parts.append(
                f'<text class="tick" x="{middle:.1f}" y="{top + high + 17}" text-anchor="middle">{escape(label)}</text>'
            )
    return "".join((*parts, "</svg>"))


def dots(title: str, rows: Sequence[Bar], lines: Sequence[tuple[float, str]]) -> str:
    """Values from 0 to 1 (below 0 at 0) as points, and lines with their names across all rows."""
    top = 20
    parts = [_open(title, top + ROW * len(rows) + 4)]
    for value, name in lines:
        x = _x(value)
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{top + ROW * len(rows)}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{top - 6}" text-anchor="middle">{escape(name)}</text>')
    for number, row in enumerate(rows):
        y = top + ROW * number + 4
        parts += _label(row.label, y)
        parts.append(f'<line class="axis" x1="{_x(0):.1f}" x2="{_x(1):.1f}" y1="{y + 8}" y2="{y + 8}"/>')
        parts.append(f'<circle class="{row.tone}" cx="{_x(min(max(row.value, 0), 1)):.1f}" cy="{y + 8}" r="6"/>')
        parts.append(f'<text class="tick" x="{WIDTH - RIGHT + 10}" y="{y + 13}">{escape(row.note)}</text>')
    return "".join((*parts, "</svg>"))


def _open(title: str, height: float) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'


def _x(share: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * share


def _rect(tone: str, start: float, end: float, y: float, told: str) -> str:
    wide = _x(end) - _x(start)
    return (
        f'<rect class="{tone}" x="{_x(start):.1f}" y="{y}" width="{wide:.1f}" height="{BAR}">'
        f"<title>{escape(told)}</title></rect>"
    )


def _whisker(low: float, high: float, y: float) -> str:
    return f'<line class="whisker" x1="{_x(low):.1f}" x2="{_x(high):.1f}" y1="{y + BAR / 2}" y2="{y + BAR / 2}"/>'


def _label(text: str, y: float) -> Iterator[str]:
    cut = text if len(text) <= MOST_LABEL else f"{text[: MOST_LABEL - 1]}…"
    yield f'<text x="{LEFT - 10}" y="{y + 13}" text-anchor="end">{escape(cut)}<title>{escape(text)}</title></text>'


def _legend(names: Sequence[tuple[str, str]]) -> tuple[list[str], int]:
    """The marks with their names, in lines, and how high they are."""
    parts, x, y = list[str](), 0.0, 4
    for name, tone in names:
        wide = 24 + 7.2 * len(name)
        if x and x + wide > WIDTH:
            x, y = 0.0, y + 20
        parts.append(f'<rect class="{tone}" x="{x:.0f}" y="{y}" width="12" height="12"/>')
        parts.append(f'<text class="tick" x="{x + 17:.0f}" y="{y + 11}">{escape(name)}</text>')
        x += wide + 10
    return parts, y + 22
