"""Small figures as inline SVG, without a script or a library. Pure; whatever is text is escaped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

WIDTH, ROW, LEFT, RIGHT = 440, 24, 80, 60
NAMES, STEP, APART = 200, 12, 56
"""Of `shares`: where the axis begins, from point to point, and from the mark to an end that is told: nearer ones lie over it."""
MOST_LABEL = 30
"""Characters that its names have room for."""
MOST_SHARE = 250.0
"""Percent."""


class Interval(NamedTuple):
    label: str
    value: float
    low: float
    high: float


def intervals(title: str, rows: Sequence[Interval]) -> str:
    """Points with their intervals on one axis of their own, one row each."""
    low, high = min(row.low for row in rows), max(row.high for row in rows)
    pad = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    low, high = low - pad, high + pad
    height = ROW * len(rows) + 24

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low)

    parts = [_open(title, height)]
    for at, row in enumerate(rows):
        y = ROW * at + ROW / 2
        parts += (
            f'<text x="0" y="{y + 5:.1f}">{escape(row.label)}</text>',
            f'<line class="whisker" x1="{x(row.low):.1f}" x2="{x(row.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>',
            f'<circle class="m{at % 3}" cx="{x(row.value):.1f}" cy="{y:.1f}" r="6"/>',
            f'<text x="{WIDTH}" y="{y + 5:.1f}" text-anchor="end">{row.value:.4g}</text>',
        )
    return "".join((*parts, _axis(low, high, ROW * len(rows) + 2), "</svg>"))


def curve(title: str, points: Sequence[tuple[float, float]]) -> str:
    """A line through (x, y), with the ends of both axes written out."""
    height, top, bottom = 220, 16, 180
    (x0, x1), (y0, y1) = _range([x for x, _ in points]), _range([y for _, y in points])
    place = [
        (LEFT + (WIDTH - LEFT - RIGHT) * (x - x0) / (x1 - x0), bottom - (bottom - top) * (y - y0) / (y1 - y0))
        for x, y in points
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in place)
    return "".join(
        (
            _open(title, height),
            f'<text x="{LEFT - 8}" y="{top + 5}" text-anchor="end">{y1:.3g}</text>',
            f'<text x="{LEFT - 8}" y="{bottom + 5}" text-anchor="end">{y0:.3g}</text>',
            f'<polyline class="curve" points="{line}"/>',
            _axis(x0, x1, bottom + 4),
            "</svg>",
        )
    )


def shares(title: str, rows: Sequence[tuple[str, Sequence[Interval | None]]]) -> str:
    """Percents of a whole around a mark at 100: for each name its points one below the other, each in the colour of its place.
    The axis goes no further than MOST_SHARE: what is beyond ends there, and is told on hovering."""
    found = [point for _, points in rows for point in points if point is not None]
    low = max(min((95.0, *(point.low for point in found))) - 1, 0.0)
    high = min(max((105.0, *(point.high for point in found))), MOST_SHARE) + 1

    def x(value: float) -> float:
        return NAMES + (WIDTH - NAMES - 10) * (min(max(value, low), high) - low) / (high - low)

    parts, y = list[str](), 6.0
    for name, points in rows:
        parts.append(f'<text x="0" y="{y + STEP * len(points) / 2 + 4:.1f}">{escape(_short(name))}</text>')
        drawn = enumerate(points, 1)
        parts += (_share(name, point, x, y + STEP * at - 4, at) for at, point in drawn if point is not None)
        y += STEP * len(points) + 10
    ends = ((low, "start"), (100.0, "middle"), (high, "end"))
    ticks = (
        f'<text class="tick" x="{x(value):.1f}" y="{y + 14:.0f}" text-anchor="{anchor}">{value:.0f} %</text>'
        for value, anchor in ends
        if value == 100 or abs(x(value) - x(100.0)) >= APART
    )
    mark = f'<line class="axis" x1="{x(100):.1f}" x2="{x(100):.1f}" y1="0" y2="{y:.0f}"/>'
    return "".join((_open(title, y + 22), mark, *parts, *ticks, "</svg>"))


def _share(name: str, point: Interval, x: Callable[[float], float], y: float, at: int) -> str:
    told = f"{name}, {point.label}: {point.value:.1f} % ({point.low:.1f} to {point.high:.1f})"
    ends = f'x1="{x(point.low):.1f}" x2="{x(point.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"'
    dot = f'<circle class="m{at % 3}" cx="{x(point.value):.1f}" cy="{y:.1f}" r="5"/>'
    return f'<g><title>{escape(told)}</title><line class="whisker" {ends}/>{dot}</g>'


def _short(name: str) -> str:
    return name if len(name) <= MOST_LABEL else f"{name[: MOST_LABEL - 1]}…"


def reliability(title: str, points: Sequence[tuple[float, float, float]]) -> str:
    """(confidence, accuracy, share of the items) of each interval as a circle of that area, and the diagonal."""
    side, left, top = 200, 34, 10
    at = [(left + side * x, top + side * (1 - y), 3 + 14 * share**0.5) for x, y, share in points]
    return "".join(
        (
            f'<svg viewBox="0 0 {side + left + 20} {side + top + 24}" role="img" aria-label="{escape(title)}">',
            f'<rect class="frame" x="{left}" y="{top}" width="{side}" height="{side}"/>',
            f'<line class="axis" x1="{left}" y1="{top + side}" x2="{left + side}" y2="{top}"/>',
            *(f'<circle class="m1 part" cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}"/>' for x, y, r in at),
            *(
                f'<text class="tick" x="{left + side * v:.0f}" y="{top + side + 16}" text-anchor="middle">{v:g}</text>'
                f'<text class="tick" x="{left - 6}" y="{top + side * (1 - v) + 4:.0f}" text-anchor="end">{v:g}</text>'
                for v in (0, 0.5, 1)
            ),
            "</svg>",
        )
    )


def _open(title: str, height: float) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">'


def _axis(low: float, high: float, y: float) -> str:
    right = WIDTH - RIGHT
    return (
        f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{y:.0f}" y2="{y:.0f}"/>'
        f'<text class="tick" x="{LEFT}" y="{y + 17:.0f}">{low:.4g}</text>'
        f'<text class="tick" x="{right}" y="{y + 17:.0f}" text-anchor="end">{high:.4g}</text>'
    )


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
