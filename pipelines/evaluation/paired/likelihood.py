"""Perplexity: the paired difference of log-likelihoods per token, tested by the studentized bootstrap.

The logarithm of the perplexities' ratio is sum(nll_new - nll_old) / sum(tokens), a ratio of means over items. "The ratio is 1 + D
or more" says that the items' differences - log(1 + D) x tokens have a mean of 0 or more. Log-likelihoods have no bounds, so no
test of their mean is exact (Bahadur and Savage 1956); the studentized bootstrap takes their skewness into account, which a t-test
does not (Hall 1988, "Theoretical comparison of bootstrap confidence intervals", Annals of Statistics 16). What level it keeps is
measured in benchmarks/bench_gate.py: docs/evaluation.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from pipelines.evaluation.paired.sample import normal_items

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RESAMPLES = 4000
MIN_ITEMS = 20
"""Fewer say nothing by this test."""
DRAWN_AT_ONCE = 4_000_000
"""Items of resamples held in memory together."""


@dataclass(frozen=True)
class Likelihood:
    """`worse`: nll_new - nll_old of each item in nats; `tokens`: its length, the same for both models."""

    worse: NDArray[np.float64]
    tokens: NDArray[np.float64]

    @property
    def num_items(self) -> int:
        return len(self.worse)

    @property
    def num_different(self) -> int:
        return int((self.worse != 0).sum())

    @property
    def most(self) -> float:
        return math.inf

    @property
    def harm(self) -> float:
        return math.expm1(self.worse.sum() / self.tokens.sum())

    def p_at_least(self, limit: float) -> float:
        return self._p(limit, 1)

    def p_at_most(self, limit: float) -> float:
        return self._p(limit, -1)

    def items_needed(self, limit: float, harm: float, level: float, power: float) -> float:
        if self.num_items < 2 or limit <= -1:
            return math.inf
        rest = self.worse - self.worse.sum() / self.tokens.sum() * self.tokens
        spread = float(rest.std(ddof=1) / self.tokens.mean())
        needed = normal_items(spread, spread, math.log1p(limit) - math.log1p(harm), level, power)
        return max(needed, MIN_ITEMS)

    def _p(self, limit: float, sign: int) -> float:
        import numpy as np

        if self.num_items < MIN_ITEMS or limit <= -1:
            return 1.0
        edge = math.log1p(limit)
        off = sign * (self.worse - edge * self.tokens)
        mean, error = float(off.mean()), float(off.std(ddof=1) / math.sqrt(len(off)))
        if error <= 1e-12 * max(1.0, abs(mean)):
            return 1.0 if mean >= 0 else 1 / (RESAMPLES + 1)
        means, errors = self._resampled(edge)
        # A resample without scatter could have come out anywhere: it is counted against the model.
        drawn = np.divide(sign * means - mean, errors, out=np.full(len(means), -np.inf), where=errors > 1e-12)
        return float(1 + np.count_nonzero(drawn <= mean / error)) / (RESAMPLES + 1)

    def _resampled(self, edge: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean of worse - edge x tokens in each resample, and its standard error."""
        import numpy as np

        w, t, ww, wt, tt = self._sums
        n = self.num_items
        means = (w - edge * t) / n
        squares = (ww - 2 * edge * wt + edge * edge * tt) / n
        return means, np.sqrt(np.maximum(squares - means * means, 0) / (n - 1))

    @cached_property
    def _sums(self) -> NDArray[np.float64]:
        """Of the items' figures and their products, over RESAMPLES draws with replacement: always the same draws."""
        import numpy as np

        w, t, n = self.worse, self.tokens, self.num_items
        figures = np.stack([w, t, w * w, w * t, t * t])
        drawer, parts, left = np.random.default_rng(n), [], RESAMPLES
        while left:
            rows = min(left, max(1, DRAWN_AT_ONCE // n))
            drawn = drawer.integers(0, n, (rows, n))
            parts.append(np.stack([figure[drawn].sum(1) for figure in figures]))
            left -= rows
        return np.concatenate(parts, axis=1)
