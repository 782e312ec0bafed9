"""When a step must not stand, and which data comes after it. Pure, and the same on all ranks: they share the loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

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
