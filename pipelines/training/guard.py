"""When a step must not stand, and which data comes after it. Pure, and the same on all ranks: they share the loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from cluster.artifacts import Incident

WINDOW = 32
"""Losses that a new one is compared with."""

ENOUGH = 16
"""Fewer say nothing about what is usual."""


def trouble(loss: float, before: Sequence[float], deviations: float | None) -> str | None:
    """Why a step with that loss must not stand, or None when it may.

    A spike is a loss so many standard deviations above the median of the last WINDOW. The deviation is 1.4826 times the
    median distance to the median, which is the standard deviation of normal data and which single outliers do not move
    (Rousseeuw and Croux 1993, section 1), and at least 1 % of the median: a flat curve is no reason to be strict.

    Args:
        deviations: None lets spikes pass.
    """
    if not math.isfinite(loss):
        return "the loss is not a number"
    recent = list(before[-WINDOW:])
    if deviations is None or len(recent) < ENOUGH:
        return None
    middle = median(recent)
    deviation = max(1.4826 * median(abs(value - middle) for value in recent), 0.01 * abs(middle))
    if loss > middle + deviations * deviation:
        return f"the loss rose to {loss:.3f}, where {middle:.3f} was usual"
    return None


def data_step(step: int, skipped: Sequence[int]) -> int:
    """The number, from 0, of the data that optimizer step `step` takes when the data of `skipped` is left out."""
    for left_out in sorted(skipped):
        if left_out <= step:
            step += 1
    return step


def suspects(step: int, at: int, incidents: Sequence[Incident], skipped: Sequence[int]) -> tuple[int, ...]:
    """Numbers of the data to leave out when optimizer step `step` (from 1) does not stand with the data `at`.

    A loss is computed before its own step moves the weights. So what it shows is its own data, or harm that the step before
    did to the weights. When the same step does not stand with other data either, it is the latter, and that step's data goes too.
    """
    if step < 2 or all(incident.step != step for incident in incidents):
        return (at,)
    return data_step(step - 2, skipped), at


class Kept(NamedTuple):
    """A checkpoint that is there."""

    step: int
    """Optimizer steps done."""
    num_incidents: int
    """That the run had had."""


def way_back(kept: Sequence[Kept], step: int, incidents: Sequence[Incident]) -> int | None:
    """Place in `kept` of the checkpoint to go back to when optimizer step `step` (from 1) does not stand; None: there is none.

    The newest whose weights a step that stands was computed with: right before a loss that is no number the checkpoint holds
    what made it so, as likely as not. Only where there is no older one, and at the first time, is that one tried. What was
    written between a point gone back to and the incident is of a run that is no more.
    """
    ours = [
        (one.step, place)
        for place, one in enumerate(kept)
        if one.step < step and all(one.step <= incident.back_to_step for incident in incidents[one.num_incidents :])
    ]
    proven = [(at, place) for at, place in ours if at < step - 1]
    if not proven and any(incident.step == step for incident in incidents):
        return None
    return max(proven or ours, default=(0, None))[1]
