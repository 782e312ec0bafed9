"""Scores between two limits (chrF, F1): a test by betting, exact for every number of items and every distribution.

Against "the mean harm is D or more" one bets a share of one's wealth, item by item, that an item's harm is below D. If the
hypothesis is true the wealth's expectation never exceeds its start of 1: 1 / wealth is a p-value (Markov; Waudby-Smith and Ramdas
2024, "Estimating means of bounded random variables by betting", JRSS B 86, section 4). The wealth is spread over STAKES, so
that the items' order does not matter (Cover 1991, universal portfolios). It takes more items than a t-test, whose level is only
approximate and which takes a harm that no item happened to show for impossible: here none of n items excludes about 3 / n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STAKES = 64
"""Shares of the largest stake that cannot ruin, evenly spread."""
PRICE = 4.0
"""Wealth lost to the stakes that turn out wrong, about; for planning."""


@dataclass(frozen=True)
class Bounded:
    """`harms`: old - new for each item, as a fraction of the score's range (-1 to 1)."""

    harms: NDArray[np.float64]

    @property
    def num_items(self) -> int:
        return len(self.harms)

    @property
    def num_different(self) -> int:
        return int((self.harms != 0).sum())

    @property
    def most(self) -> float:
        return 1.0

    @property
    def harm(self) -> float:
        return float(self.harms.mean())

    def p_at_least(self, limit: float) -> float:
        return _p(limit - self.harms, limit)

    def p_at_most(self, limit: float) -> float:
        return _p(self.harms - limit, -limit)

    def items_needed(self, limit: float, harm: float, level: float, power: float) -> float:
        import numpy as np

        sign = 1 if limit > harm else -1
        won = sign * (limit - harm - (self.harms - self.harms.mean()))
        # No stake loses more than everything, which an item moved by `harm` could otherwise do.
        growth = np.log(np.maximum(1 + _stakes(sign * limit)[:, None] * won, 1e-6))
        mean, scatter, goal = growth.mean(1), growth.std(1), math.log(PRICE / level)
        best = int(np.argmax(mean))
        if mean[best] <= 0:
            return math.inf
        # n mean - z sqrt(n) scatter = goal, the logarithm of the wealth that is to be won.
        half = NormalDist().inv_cdf(power) * scatter[best] / (2 * mean[best])
        return float((half + math.sqrt(half * half + goal / mean[best])) ** 2)


def _stakes(limit: float) -> NDArray[np.float64]:
    """Up to 1 / (1 - limit): with it a single item of harm 1 would take all there is."""
    import numpy as np

    return np.arange(1, STAKES + 1) / (STAKES + 1) / (1 - limit)


def _p(won: NDArray[np.float64], limit: float) -> float:
    import numpy as np

    if abs(limit) >= 1:
        return float(limit <= -1)
    logs = np.log1p(_stakes(limit)[:, None] * won).sum(1)
    log_wealth = float(np.logaddexp.reduce(logs) - math.log(STAKES))
    return math.exp(-max(0.0, log_wealth))
