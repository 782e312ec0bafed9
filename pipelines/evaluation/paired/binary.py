"""Right or wrong: an exact unconditional test of paired proportions on Tango's score statistic.

Of n items, the new model lost b (right before, wrong now) and gained c. "The harm P(lost) - P(gained) is D or more" is
tested by Tango's statistic (Tango 1998, "Equivalence test and confidence interval for the difference in proportions for the
paired-sample design", Statistics in Medicine 17, equations 10 and 11), McNemar's at D = 0. Its normal approximation rejects too
often where few items differ (n 50, D 1 %: 3 lost items have a chance of 1.4 % and an approximate p of 0.02 %), so the p-value here
is the statistic's exact tail under the trinomial distribution, the largest over P(gained), which the hypothesis leaves open, within
a confidence set of level 1 - gamma, plus gamma (Berger and Boos 1994, JASA 89). The hypothesis' edge, harm = D, is its worst
case (Roehmel and Mansmann 1999, Biometrical Journal 41).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.evaluation.paired.sample import normal_items

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GAMMA = 1e-4
NUISANCES = 24
"""Values of P(gained) that are tried: the tail changes slowly with it."""
FAR = -20.0
"""A statistic beyond which nothing within REACH is as extreme."""
REACH = 6.5
"""Standard deviations (and 12 items) around the expectation that are summed: what is left out is below 1e-9."""


@dataclass(frozen=True)
class Binary:
    num_items: int
    num_lost: int
    num_gained: int

    @property
    def num_different(self) -> int:
        return self.num_lost + self.num_gained

    @property
    def most(self) -> float:
        return 1.0

    @property
    def harm(self) -> float:
        return (self.num_lost - self.num_gained) / self.num_items

    def p_at_least(self, limit: float) -> float:
        return _tail(self.num_items, self.num_lost, self.num_gained, limit)

    def p_at_most(self, limit: float) -> float:
        # The same question of the gain, which is the harm with lost and gained exchanged.
        return _tail(self.num_items, self.num_gained, self.num_lost, -limit)

    def items_needed(self, limit: float, harm: float, level: float, power: float) -> float:
        # One item more that differs: of none seen it does not follow that there are none.
        differ = (self.num_lost + self.num_gained + 1) / self.num_items
        spread, null_spread = (math.sqrt(max(differ, abs(x)) - x * x) for x in (harm, limit))
        return normal_items(spread, null_spread, limit - harm, level, power)


def _tail(n: int, lost: int, gained: int, limit: float) -> float:
    """P(as little lost as observed, or less) if the harm is `limit`."""
    import numpy as np

    if limit >= 1 or limit <= -1:
        return float(limit <= -1)
    observed = float(_statistic(n, np.array([lost]), np.array([gained]), limit)[0])
    if observed < FAR:
        return GAMMA
    largest = max(_probability(n, limit, chance, observed) for chance in _nuisances(n, gained, limit))
    return min(1.0, largest + GAMMA)


def _nuisances(n: int, gained: int, limit: float) -> NDArray[np.float64]:
    """Values of P(gained) that `gained` of n leave possible at level 1 - GAMMA (Chernoff's bound holds for every n)."""
    import numpy as np

    low, high = max(0.0, -limit), (1 - limit) / 2
    grid = np.concatenate([[low], low + (high - low) * np.geomspace(1e-5, 1, 4000)])
    share = gained / n
    with np.errstate(divide="ignore", invalid="ignore"):
        divergence = np.where(share > 0, share * np.log(share / grid), 0.0)
        divergence += np.where(share < 1, (1 - share) * np.log((1 - share) / (1 - grid)), 0.0)
    possible = grid[np.nan_to_num(n * divergence, nan=np.inf) <= math.log(2 / GAMMA)]
    if not len(
        possible
    ):  # the hypothesis contradicts what was gained whatever was lost: its nearest point stands for it
        possible = grid[[int(np.argmin(np.nan_to_num(divergence, nan=np.inf)))]]
    picked = np.linspace(0, len(possible) - 1, NUISANCES).round().astype(int)
    return np.unique(possible[picked])


def _probability(n: int, limit: float, gaining: float, observed: float) -> float:
    """P(statistic <= observed) with P(gained) = gaining and P(lost) = gaining + limit."""
    import numpy as np

    losing = min(1.0, gaining + limit)
    lost, gained = _around(n, losing)[:, None], _around(n, gaining)[None, :]
    kept = n - lost - gained
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    weights = logs[n] - logs[lost] - logs[gained] - logs[np.maximum(kept, 0)]
    for count, chance in ((lost, losing), (gained, gaining), (kept, max(0.0, 1 - losing - gaining))):
        weights = weights + (count * math.log(chance) if chance > 0 else np.where(count == 0, 0.0, -np.inf))
    as_extreme = (kept >= 0) & (_statistic(n, lost, gained, limit) <= observed + 1e-9)
    return float(np.exp(weights[as_extreme]).sum())


def _around(n: int, chance: float) -> NDArray[np.int64]:
    import numpy as np

    reach = REACH * math.sqrt(n * chance * (1 - chance)) + 12
    return np.arange(max(0, math.floor(n * chance - reach)), min(n, math.ceil(n * chance + reach)) + 1)


def _statistic(n: int, lost: NDArray[np.int64], gained: NDArray[np.int64], limit: float) -> NDArray[np.float64]:
    """Tango's score: (lost - gained - n D) over its standard error with P(gained) as likely as can be under harm = D."""
    import numpy as np

    a, b, c = 2 * n, (2 * n - lost + gained) * limit - lost - gained, -gained * limit * (1 - limit)
    gaining = (np.sqrt(np.maximum(b * b - 4 * a * c, 0)) - b) / (2 * a)
    variance = n * (2 * gaining + limit * (1 - limit))
    off = lost - gained - n * limit
    return np.divide(off, np.sqrt(np.maximum(variance, 0)), out=np.zeros(off.shape), where=variance > 1e-12)
