"""Exact one-sided tests for small counts, without a heavy library. Pure.

Both hold their level for any sample sizes, 3 requests on one side included, at one look; looks are not corrected for
one another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

BERGER_BOOS_SHARE = 0.1
"""Share of the level spent on not knowing stable's rate (Berger & Boos 1994, doi 10.1080/01621459.1994.10476836)."""


def binomial_tail(successes: int, trials: int, rate: float) -> float:
    """P(X >= successes) for X ~ Binomial(trials, rate)."""
    if successes <= 0:
        return 1.0
    if successes > trials or rate <= 0:
        return 0.0
    if rate >= 1:
        return 1.0
    log_rate, log_rest = math.log(rate), math.log1p(-rate)
    logs = [_log_choose(trials, k) + k * log_rate + (trials - k) * log_rest for k in range(successes, trials + 1)]
    return min(1.0, math.fsum(map(math.exp, logs)))


def hypergeometric_tail(hits: int, population: int, marked: int, draws: int) -> float:
    """P(X >= hits) when `draws` of `population` are drawn and `marked` of them count: Fisher's exact test."""
    least, most = max(0, draws - (population - marked)), min(draws, marked)
    if hits <= least:
        return 1.0
    total = _log_choose(population, draws)
    logs = [_log_choose(marked, k) + _log_choose(population - marked, draws - k) - total for k in range(hits, most + 1)]
    return min(1.0, math.fsum(map(math.exp, logs)))


def rate_upper_bound(successes: int, trials: int, level: float) -> float:
    """The rate that the true one exceeds with probability at most `level` (Clopper & Pearson 1934, one-sided)."""
    if successes >= trials:  # no requests among them
        return 1.0
    low, high = successes / trials, 1.0
    for _ in range(50):  # halving: 1e-15
        middle = (low + high) / 2
        # P(X <= successes) = 1 - P(X >= successes + 1), which falls as the rate grows
        if 1 - binomial_tail(successes + 1, trials, middle) > level:
            low = middle
        else:
            high = middle
    return high


def rate_increase_p_value(canary: tuple[int, int], stable: tuple[int, int], margin: float, level: float) -> float:
    """p-value against "the canary's harmful rate is at most stable's plus `margin`"; sides are (harmful, requests).

    Berger & Boos: the worst case over stable's rates inside an upper confidence bound, plus that bound's own error.
    """
    bound = rate_upper_bound(*stable, level * BERGER_BOOS_SHARE)
    return min(1.0, binomial_tail(*canary, min(1.0, bound + margin)) + level * BERGER_BOOS_SHARE)


def quantile(values: Sequence[float], fraction: float) -> tuple[float, int]:
    """The smallest value that at least `fraction` of `values` do not exceed, and its rank, counted from 1."""
    rank = max(1, math.ceil(fraction * len(values) - 1e-9))
    return sorted(values)[rank - 1], rank


def exceedance_p_value(exceeding: int, canary: int, stable: int, rank: int) -> float:
    """P(at least `exceeding` of `canary` values lie above the `rank`-th of `stable` values) when all are alike.

    At least k of them do exactly when the top (stable - rank + k) of all values hold at least k of the canary's, a
    hypergeometric count. It tends to the binomial tail under 1 - quantile as stable grows, and holds its level when
    stable is small, where a binomial test would take stable's quantile for known.
    """
    return hypergeometric_tail(exceeding, canary + stable, canary, stable - rank + exceeding)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
