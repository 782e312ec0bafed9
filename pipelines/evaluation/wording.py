"""How figures of two models are told: with the digits in which they differ. No heavy imports."""

from __future__ import annotations

import math

from cluster.artifacts import Difference

LEAST_TOLD = 1e-4
"""Points or percent below which a difference is told as less than that."""
LEAST_BOUND = 0.02
"""The same of a test's bounds, which are found to 0.013 (`BISECTIONS`)."""
ROUNDING = 1e-9
"""What sums that should be equal differ by."""
MOST_DECIMALS = 7
FEWEST_DIGITS, MOST_DIGITS = 4, 9
DIGITS = 3
"""Of the widest bound of an interval: what the bootstrap of 2,000 draws can say."""


def both(old: float, new: float) -> tuple[str, str]:
    """Two figures with so many digits that what is not the same does not look the same."""
    for digits in range(FEWEST_DIGITS, MOST_DIGITS):
        told = f"{old + 0.0:.{digits}g}", f"{new + 0.0:.{digits}g}"  # of the negative of a loss of 0, no "-0"
        if told[0] != told[1] or abs(new - old) <= ROUNDING * abs(old):
            break
    return told


def identical(num_items: int, num_different: int | None) -> str:
    """Of items that all came out the same; else, and where an earlier version did not count them, nothing."""
    return f"identical on all {num_items:,} items" if num_different == 0 else ""


def change(found: Difference) -> tuple[str, str]:
    """The difference and its interval, in the decimals that the interval's width makes worth telling."""
    if same := identical(found.num_items, found.num_different):
        return "0", same
    figures = (found.difference, found.ci_low, found.ci_high)
    widest = max(map(abs, figures))
    decimals = DIGITS - 1 - math.floor(math.log10(widest)) if widest > 0 else 0
    if decimals > MOST_DECIMALS:
        difference, low, high = (f"{one:+.1e}" if one else "0" for one in figures)
    else:
        difference, low, high = (_signed(one, max(decimals, 0)) for one in figures)
    return difference, f"{low} to {high}"


def moved(harm: float, unit: str, least: float = LEAST_TOLD) -> str:
    """How much worse or better a model is, never rounded to nothing."""
    size, way = abs(harm), "worse" if harm > 0 else "better"
    if size <= ROUNDING:
        return "no difference"
    if size < least:
        return f"less than {least:g} {unit} {way}"
    return f"{size:.1f} {unit} {way}" if size >= 1 else f"{size:.2g} {unit} {way}"


def _signed(value: float, decimals: int) -> str:
    told = f"{value:+.{decimals}f}"
    return told if float(told) else "0"
