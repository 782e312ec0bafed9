"""Tests that stay valid however often one looks: e-values for two rates and for a bounded mean. Pure, numpy only.

An e-value has expectation at most 1 while the null hypothesis is true, whatever was seen before. Products of e-values of
later and later blocks, and averages of such products with weights fixed beforehand, therefore exceed 1/alpha with
probability at most alpha at *any* moment (Ville 1939): looking all the time costs nothing. Ramdas, Grünwald, Vovk, Shafer,
"Game-theoretic statistics and safe anytime-valid inference", Statistical Science 2023, arXiv 2210.01948.

All functions work on arrays of any shape (they broadcast), so that one call serves all strata, quantiles and alternatives
of a rollout, and a simulation serves thousands of rollouts by the very code that decides.
"""

from __future__ import annotations

import math
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Null = Literal["at_most", "at_least"]
"""`at_most`: the canary's rate is at most stable's plus a margin (rejected: harm). `at_least`: at least that (rejected: a
harm of that size)."""

TINY: Final = 1e-9
"""Rates are kept so far from 0 and 1, so that one surprise never makes a logarithm infinite."""
MAX_NEWTON_STEPS: Final = 100
PRECISION: Final = 1e-6
"""Newton steps inside a shrinking bracket, until what is left costs less than this in nats: `log_e_rates` pays for it. A stable
side that hardly ever fails takes dozens of steps."""


def log_e_rates(
    stable: tuple[ArrayLike, ArrayLike],
    canary: tuple[ArrayLike, ArrayLike],
    alternative: tuple[ArrayLike, ArrayLike],
    margin: ArrayLike,
    null: Null,
) -> Array:
    """Logarithm of the e-value of one block; 0 where a side is empty or the alternative lies in the null.

    `stable` and `canary` are (number, hits); `alternative` is (stable's rate, the canary's), fixed before the block;
    the null's border is "canary's rate = stable's + margin", margin in (-1, 1).

    The e-value is the likelihood ratio of the alternative (a, b) to its reverse information projection (x, y = x + margin)
    onto the border, the point of the null with the least sum n_s KL(a|x) + n_c KL(b|y) (Turner, Ly, Grünwald 2024, "Generic
    E-variables for exact sequential k-sample tests that allow for optional stopping"; for margins Turner & Grünwald 2023,
    "Exact anytime-valid confidence intervals for contingency tables and beyond").
    Proof. With A = (a-x)/(x(1-x)) and B = (b-y)/(y(1-y)) a request of rate p contributes a factor of mean 1 + A(p-x), or
    1 + B(p-y), so log E[e] <= n_s A(p_s-x) + n_c B(p_c-y), p_s and p_c the block's mean rates. On the null this is at most
    (n_s A + n_c B)(p_s-x), as B points away from it, and the bracket is 0 at the least sum. What the finite number of
    Newton steps leaves of it is subtracted. So only the mean rates matter: both may drift together, from request to request.
    """
    num_stable, hits_stable, num_canary, hits_canary = np.broadcast_arrays(
        *(np.asarray(value, float) for value in (*stable, *canary))
    )
    a = np.clip(alternative[0], TINY, 1 - TINY)
    b = np.clip(alternative[1], TINY, 1 - TINY)
    margin = np.asarray(margin, float)
    x, rest = _project(num_stable, num_canary, a, b, margin)
    y = x + margin
    value = (
        hits_stable * np.log(a / x)
        + (num_stable - hits_stable) * np.log((1 - a) / (1 - x))
        + hits_canary * np.log(b / y)
        + (num_canary - hits_canary) * np.log((1 - b) / (1 - y))
        - np.abs(rest)
    )
    outside = b > a + margin if null == "at_most" else b < a + margin
    return np.where(outside & (num_stable > 0) & (num_canary > 0), value, 0.0)


def _project(num_stable: Array, num_canary: Array, a: Array, b: Array, margin: Array) -> tuple[Array, Array]:
    """Stable's rate x of the projection, and n_s A + n_c B there, which is 0 at the exact one.

    The sum to be least is convex in x, so its slope has one zero, between where each side alone would have it.
    """
    floor, ceiling = np.maximum(TINY, TINY - margin), np.minimum(1 - TINY, 1 - TINY - margin)
    ends = np.clip(a, floor, ceiling), np.clip(b - margin, floor, ceiling)
    low, high = np.minimum(*ends), np.maximum(*ends)
    total = np.maximum(num_stable + num_canary, 1.0)
    s, c = num_stable / total, num_canary / total
    x = s * ends[0] + c * ends[1]  # exact without a margin
    for _ in range(MAX_NEWTON_STEPS):
        slope, curvature = _slope(x, x + margin, (s, a), (c, b))
        if (total * np.abs(slope) < PRECISION).all():
            break
        low, high = np.where(slope < 0, x, low), np.where(slope < 0, high, x)
        step = x - slope / curvature
        x = np.where((step >= low) & (step <= high), step, (low + high) / 2)
    return x, -total * _slope(x, x + margin, (s, a), (c, b))[0]


def _slope(x: Array, y: Array, stable: tuple[Array, Array], canary: tuple[Array, Array]) -> tuple[Array, Array]:
    """First and second derivative of s KL(a|x) + c KL(b|y) by x, where y = x + margin."""
    (s, a), (c, b) = stable, canary
    x_spread, y_spread = x * (1 - x), y * (1 - y)
    first = s * (x - a) / x_spread + c * (y - b) / y_spread
    second = s * ((a - x) ** 2 + a * (1 - a)) / x_spread**2 + c * ((b - y) ** 2 + b * (1 - b)) / y_spread**2
    # KL(a|x)'' = a/x^2 + (1-a)/(1-x)^2 = ((a-x)^2 + a(1-a)) / (x(1-x))^2
    return first, second


def growth(ratio: ArrayLike, truth: tuple[ArrayLike, ArrayLike], alternative: tuple[ArrayLike, ArrayLike],
           margin: ArrayLike, null: Null) -> Array:  # fmt: skip
    """Expected log e-value per canary request under `truth`, with `ratio` stable requests to each of the canary's."""
    ratio = np.asarray(ratio, float)
    return log_e_rates((ratio, ratio * truth[0]), (1.0, truth[1]), alternative, margin, null)


def mix(log_values: ArrayLike, weights: ArrayLike, axis: int | tuple[int, ...] = -1) -> Array:
    """log of the weighted sum of exp(log_values) along `axis`: an average of e-values is one."""
    with np.errstate(divide="ignore"):
        terms = np.asarray(log_values, float) + np.log(np.asarray(weights, float))
    highest: Array = np.max(terms, axis=axis, keepdims=True)
    total: Array = np.log(np.sum(np.exp(terms - highest), axis=axis, keepdims=True)) + highest
    return np.squeeze(total, axis=axis)


def rate_bound(number: ArrayLike, hits: ArrayLike, level: float, side: Literal["upper", "lower"]) -> Array:
    """A bound that the rate of `hits` among `number` keeps to at all times together, but with probability `level`.

    The likelihood of the data averaged over all rates, against that of one rate p, is a martingale if p is the true one: the
    bound is where it reaches 1/level (Robbins 1970, "Statistical methods related to the law of the iterated logarithm").
    """
    n, k = np.broadcast_arrays(np.asarray(number, float), np.asarray(hits, float))
    log_gamma = np.vectorize(math.lgamma, otypes=[float])
    averaged = log_gamma(k + 0.5) + log_gamma(n - k + 0.5) - log_gamma(n + 1) - math.log(math.pi)  # Jeffreys' weights
    inside = k / np.maximum(n, 1)
    outside = np.full(n.shape, 1 - TINY if side == "upper" else TINY)
    for _ in range(40):  # halving: 1e-12
        middle = (inside + outside) / 2
        rate = np.clip(middle, TINY, 1 - TINY)
        excluded = averaged - k * np.log(rate) - (n - k) * np.log(1 - rate) > math.log(1 / level)
        inside, outside = np.where(excluded, inside, middle), np.where(excluded, middle, outside)
    return np.where(n > 0, outside, 1 - TINY if side == "upper" else TINY)


def log_e_rate_alone(canary: tuple[ArrayLike, ArrayLike], rate: ArrayLike, border: ArrayLike, null: Null) -> Array:
    """Logarithm of the e-value of the canary's (number, hits) alone: alternative `rate` against a fixed `border`."""
    b, y = np.clip(rate, TINY, 1 - TINY), np.clip(border, TINY, 1 - TINY)
    number, hits = np.asarray(canary[0], float), np.asarray(canary[1], float)
    value = hits * np.log(b / y) + (number - hits) * np.log((1 - b) / (1 - y))
    return np.where((b > y) if null == "at_most" else (b < y), value, 0.0)


MAX_BET: Final = 0.75
"""Share of what can be lost at once that is put at stake (Waudby-Smith & Ramdas 2024 take 1/2 or 3/4)."""


def bet(effect: ArrayLike, variance: ArrayLike, margin: float) -> Array:
    """The stake on a mean that is `effect` beyond `margin`, nearly the one of fastest growth (there: "aGRAPA")."""
    effect = np.asarray(effect, float)
    return np.minimum(effect / (np.asarray(variance, float) + effect**2), MAX_BET / (1 + abs(margin)))


def log_e_mean(values: ArrayLike, stakes: ArrayLike, margin: float) -> Array:
    """Logarithms of the e-values of `values` in [-1, 1] against "their mean is at most `margin`", for each stake.

    A bet that is fair or worse while the mean is at most `margin`: E[1 + stake (value - margin)] <= 1, and never below 0 for
    0 <= stake < 1/(1 + margin) (Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables by betting", JRSS B).
    """
    return np.log1p(np.asarray(stakes, float) * (np.asarray(values, float) - margin))
