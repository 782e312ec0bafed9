"""What a paired test offers, whatever the items' figures are. Harm is how much worse the new model is, as a fraction."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Protocol

MAX_ITEMS = 10_000_000
"""More items than anyone evaluates: said as "out of reach"."""
MAX_HARM = 1024.0
"""A thousand times as bad: beyond it nobody asks how bad."""
BISECTIONS = 14
"""Halvings of an interval of at most 2: a bound is found to 0.00013."""


class Sample(Protocol):
    """Both models' answers to the same items."""

    @property
    def num_items(self) -> int: ...

    @property
    def num_different(self) -> int:
        """Items on which one model did worse than the other."""
        ...

    @property
    def harm(self) -> float:
        """As observed; negative where the new model is better."""
        ...

    @property
    def most(self) -> float:
        """Harm that cannot be exceeded: 1 of a score, infinity of a perplexity."""
        ...

    def p_at_least(self, limit: float) -> float:
        """p-value of "the harm is `limit` or more": small when that is excluded."""
        ...

    def p_at_most(self, limit: float) -> float:
        """p-value of "the harm is `limit` or less": small when more is established."""
        ...

    def items_needed(self, limit: float, harm: float, level: float, power: float) -> float:
        """Items on which a model whose harm is `harm` and that scatters as this one is told from `limit` at `level`
        with a chance of `power`; infinite if `harm` is the limit itself. An approximation for planning."""
        ...


def highest(sample: Sample, level: float) -> float:
    """Upper confidence bound of the harm: the smallest limit that is excluded at `level`, by inverting the test."""
    far = 1.0
    while far < min(sample.most, MAX_HARM) and sample.p_at_least(far) > level:
        far *= 2
    return _edge(sample.harm, far, lambda limit: sample.p_at_least(limit) > level)


def lowest(sample: Sample, level: float) -> float:
    """Lower confidence bound of the harm: the largest limit beyond which it is established at `level`."""
    return _edge(sample.harm, -1.0, lambda limit: sample.p_at_most(limit) > level)


def normal_items(spread: float, null_spread: float, gap: float, level: float, power: float) -> float:
    """Items for a one-sided test of a mean that is `gap` off the limit (Fleiss, Levin, Paik 2003, section 4.2).

    Args:
        spread: standard deviation of one item where the model is.
        null_spread: the same where the harm is the limit.
    """
    if gap == 0:
        return math.inf
    z = NormalDist().inv_cdf
    return float((z(1 - level) * null_spread + z(power) * spread) / gap) ** 2


def _edge(inside: float, outside: float, holds: Callable[[float], bool]) -> float:
    """Where `holds` changes from true at `inside` to false on the way to `outside`; `outside` itself if it never does."""
    near, far = inside, outside
    for _ in range(BISECTIONS):
        middle = (near + far) / 2
        near, far = (middle, far) if holds(middle) else (near, middle)
    return far
