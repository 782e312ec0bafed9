"""Intervals for what was counted."""

from __future__ import annotations

import math

Z = 1.959964
"""Of the normal distribution, for 95 %."""


def wilson(num: int, of: int) -> tuple[float, float]:
    """95 % interval for a share of which `num` of `of` were seen (Wilson 1927, JASA 22)."""
    share, width = num / of, Z * Z / of
    middle = (share + width / 2) / (1 + width)
    half = Z / (1 + width) * math.sqrt(share * (1 - share) / of + width / (4 * of))
    return max(0.0, middle - half), min(1.0, middle + half)
