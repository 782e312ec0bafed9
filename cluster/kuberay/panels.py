"""What a dashboard is made of."""

from __future__ import annotations

from typing import NamedTuple

OURS = 'model=~"$model"'


class Line(NamedTuple):
    """A query and how its lines are called."""

    expr: str
    legend: str


class Panel(NamedTuple):
    """A picture over time."""

    title: str
    unit: str
    """Grafana's id of a unit: s, reqps, percentunit, ..."""
    lines: tuple[Line, ...]
    description: str = ""


class Dashboard(NamedTuple):
    """A page of panels; `uid` is a part of its address."""

    uid: str
    title: str
    models_of: str | None
    """The metric whose models one chooses among; None: there is no choice."""
    panels: tuple[Panel, ...]
