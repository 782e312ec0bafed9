"""Waits (time to the first token, time per token): is the canary slower than the margin allows? Pure.

For limits q taken from stable's earlier waits, is "the canary waits longer than ratio x q" more frequent than "stable waits
longer than q"? If the canary is at most `ratio` times as slow at every quantile, it never is (Howard & Ramdas 2022, "Sequential
estimation of quantiles", compare whole bands; a rate above one limit keeps its level under drift, by `sequential`).

Waits are compared within strata of the prompt's uncached length, so that neither another mix of prompts nor the cold prefix
cache of a canary that has seen 1 % of the traffic counts as slowness.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.rollout.late import LateHarm, beside
from services.rollout.rates import Alternatives, Block, RateTest, mix_beginnings
from services.rollout.sequential import Array, growth, mix

STRATA: Final = tuple(2**power for power in range(6, 15))
"""Borders in uncached prompt tokens: up to 64, 65 to 128, ..., above 16,384."""
NUM_STRATA: Final = len(STRATA) + 2
"""And, as the first one, prompts of unknown length."""
QUANTILES: Final = (0.5, 0.75, 0.9, 0.95)
QUANTILE_WEIGHTS: Final = (0.1, 0.05, 0.1, 0.75)
"""The tail weighs most: it is what users complain of, and the hardest to see."""
HARM_SCALES: Final = (0.7, 1.2, 3.0)
"""Alternatives: stable's own waits, slower by these powers of (effect / margin) beyond the margin."""
HARM_RATE: Final = 0.9
"""And nearly every answer late."""
HARM_WEIGHTS: Final = (0.75, 0.15, 0.04, 0.06)
GOOD_WEIGHTS: Final = (0.5, 0.5)
"""Ways to be good: as fast as stable, or slower by the square root of the margin."""
POOLED_WEIGHT: Final = 0.9
"""Of the evidence multiplied over all strata; the rest goes to the average of single strata, which finds a canary that is
slow with long prompts only."""
HEAVY_SHARE: Final = 0.1
"""Strata with at least this share of stable's waits must each be proven before a step passes, and all pooled as well."""
MIN_STABLE_WAITS: Final = 20
"""Of a stratum, before limits are taken from them."""
MEMORY_WAITS: Final = 20_000
"""A stratum's older waits count half whenever it has so many: limits follow a drift."""
SHORTEST_S, BINS_PER_DOUBLING, NUM_BINS = 1e-4, 16, 400
"""Stable's waits are kept as counts in bins 4.4 % wide, from 0.1 ms to an hour."""


def stratum(prompt_tokens: int | None, cached_tokens: int | None) -> int:
    """Index of a prompt's stratum, 0 to NUM_STRATA - 1."""
    if prompt_tokens is None:
        return 0
    uncached = prompt_tokens - (cached_tokens or 0)
    return 1 + int(np.searchsorted(STRATA, uncached, side="left"))


@dataclass(frozen=True)
class Waits:
    """Waits that came between two looks, in the order they came."""

    cell: NDArray[np.int64]
    """Index of the stratum; in a simulation of many rollouts rollout x NUM_STRATA + stratum."""
    canary: NDArray[np.bool_]
    seconds: Array
    gave_up: NDArray[np.bool_]
    """The client went away after so long: counts as slow where that is beyond the limit, and not at all below it."""

    def where(self, chosen: NDArray[np.bool_]) -> Waits:
        return Waits(self.cell[chosen], self.canary[chosen], self.seconds[chosen], self.gave_up[chosen])


@dataclass(frozen=True)
class LatencyTest:
    """State: stable's waits so far, limits of the blocks that wait for another side, and the tests of strata x quantiles."""

    margin: float
    """Ratio that is tolerated, at least 1."""
    effect: float
    """Ratio that the test for harm is aimed at."""
    excluded: tuple[float, ...]
    """Ratios that passing excludes."""
    floor_s: float
    """Waits below are never slow."""
    histogram: Array
    """Cells x bins."""
    limits_s: Array
    """Cells x quantiles; infinite while too little is known."""
    alternatives: Alternatives
    rates: RateTest
    late: LateHarm
    """Of all strata pooled; its alternatives are those of each quantile in turn."""

    @staticmethod
    def start(
        margin: float, effect: float, excluded: tuple[float, ...], floor_s: float, num_rollouts: int = 1
    ) -> LatencyTest:
        shape = (num_rollouts * NUM_STRATA, len(QUANTILES))
        empty = Alternatives(
            stable=np.full(shape, 0.5),
            harmful=np.full((*shape, len(HARM_WEIGHTS)), 0.5),
            good=np.full((*shape, len(excluded), len(GOOD_WEIGHTS)), 0.5),
            harm_margin=0.0,
            pass_margin=np.zeros((*shape, len(excluded))),
        )
        rates = RateTest.start(shape, len(HARM_WEIGHTS), len(excluded), len(GOOD_WEIGHTS))
        histogram, limits_s = np.zeros((shape[0], NUM_BINS)), np.full(shape, np.inf)
        late = LateHarm.start(num_rollouts, len(QUANTILES) * len(HARM_WEIGHTS))
        return LatencyTest(margin, effect, excluded, floor_s, histogram, limits_s, empty, rates, late)

    def take(self, waits: Waits) -> LatencyTest:
        """Take in a look's waits: counted against limits from earlier looks, then remembered for later ones."""
        test = self._refreshed(np.unique(waits.cell))
        rates = test.rates.take(test._count(waits), test.alternatives)
        added = test._by_rollout(rates.log_harm - test.rates.log_harm).sum(axis=1)  # rollout, quantile, alternative
        # By all that came, also those who gave up, of whom what they waited says whether they count.
        num_canary = test.late.num_canary + np.bincount(
            waits.cell[waits.canary] // NUM_STRATA, minlength=len(test.late.num_canary)
        )
        late = test.late.take(added.reshape(len(added), -1), num_canary)
        return replace(test, rates=rates, late=late, histogram=test._remember(waits))

    def restart(self) -> LatencyTest:
        return replace(self, rates=self.rates.restart())

    def _refreshed(self, touched: NDArray[np.int64]) -> LatencyTest:
        """With limits and alternatives renewed in cells that begin a block now. They stay until the block is closed."""
        waiting = self.rates.pending.num_stable[touched] + self.rates.pending.num_canary[touched] > 0
        enough = self.histogram[touched].sum(axis=1) >= MIN_STABLE_WAITS
        cells = touched[~waiting.any(axis=1) & enough]
        if not len(cells):
            return self
        tails = _Tails(self.histogram[cells])
        limits_s, given = self.limits_s.copy(), self.alternatives
        renewed = np.maximum(tails.limits_s(), self.floor_s / self.margin)
        limits_s[cells] = renewed
        stable, harmful, good, slack = self._aims(tails, renewed)
        fresh = Alternatives(
            given.stable.copy(), given.harmful.copy(), given.good.copy(), 0.0, given.pass_margin.copy()
        )
        fresh.stable[cells], fresh.harmful[cells], fresh.good[cells] = stable, harmful, good
        fresh.pass_margin[cells] = slack[..., None]
        return replace(self, limits_s=limits_s, alternatives=fresh)

    def _aims(self, tails: _Tails, limits_s: Array) -> tuple[Array, Array, Array, Array]:
        """Shares of waits beyond each limit: stable's, a harmful and a good canary's, and the slack for passing.

        A canary slower by a factor f exceeds margin x q as often as stable exceeds margin x q / f.
        """
        stable = tails.share_beyond(limits_s)
        scales = self.margin * (self.effect / self.margin) ** np.array(HARM_SCALES)
        slower = tails.share_beyond(limits_s[..., None] * self.margin / scales)
        late = np.full((*limits_s.shape, 1), HARM_RATE)
        ways = self.margin ** np.array([0, 0.5])
        good = tails.share_beyond(limits_s[..., None, None] * np.array(self.excluded)[:, None] / ways)
        # Passing excludes that the canary's share beyond effect x q reaches the quantile's own, 5 % at 0.95. Where the
        # floor lifts q above stable's quantile, stable's share is less than that: the rest is slack.
        slack = np.maximum(0.0, 1 - np.array(QUANTILES) - stable)
        return stable, np.concatenate([slower, late], axis=-1), good, slack

    def _count(self, waits: Waits) -> Block:
        """What exceeded its limit, per cell and quantile."""
        stable, canary = waits.where(~waits.canary), waits.where(waits.canary)
        num_stable, hits_stable = self._beyond(stable, 1.0)
        num_canary, hits = self._beyond(canary, self.margin)
        # Who gave up beyond the margin might have waited beyond the effect: for passing that is taken as a hit.
        stayed, lost = canary.where(~canary.gave_up), self._beyond(canary.where(canary.gave_up), self.margin)[1]
        excluded = [self._beyond(stayed, effect)[1] + lost for effect in self.excluded]
        return Block(num_stable, hits_stable, num_canary, np.stack([hits, *excluded], axis=-1))

    def _beyond(self, waits: Waits, factor: float) -> tuple[Array, Array]:
        """Waits that count, and those beyond `factor` times the limits, per cell and quantile."""
        # Limits grow with the quantile, so how many of them a wait exceeds says which.
        exceeded = (waits.seconds[:, None] > factor * self.limits_s[waits.cell]).sum(axis=1)
        counted, hits = self._tally(waits.cell, exceeded)
        if waits.gave_up.any():
            left, late = self._tally(waits.cell[waits.gave_up], exceeded[waits.gave_up])
            counted = counted - (left - late)
        return np.where(np.isfinite(self.limits_s), counted, 0.0), hits

    def _tally(self, cell: NDArray[np.int64], exceeded: NDArray[np.int64]) -> tuple[Array, Array]:
        width = len(QUANTILES) + 1
        counts = np.bincount(cell * width + exceeded, minlength=len(self.histogram) * width).reshape(-1, width)
        at_least = counts[:, ::-1].cumsum(axis=1)[:, ::-1].astype(float)
        return at_least[:, :1], at_least[:, 1:]

    def _remember(self, waits: Waits) -> Array:
        stable = ~waits.canary
        total = self.histogram.copy()
        np.add.at(total, (waits.cell[stable], _bin(waits.seconds[stable])), 1.0)
        full = total.sum(axis=1) > MEMORY_WAITS
        return total / np.where(full, 2.0, 1.0)[:, None]

    # --- what the evidence says, for each rollout -----------------------------------------------------------------------

    def _by_rollout(self, values: Array) -> Array:
        """Axes rollout, stratum, ..."""
        return values.reshape(-1, NUM_STRATA, *values.shape[1:])

    @property
    def log_harm(self) -> Array:
        """Log e-value against "at most `margin` times as slow", over the whole rollout."""
        evidence = self._by_rollout(self.rates.harm_by_beginning)  # rollout, stratum, quantile, beginning, alternative
        pooled = mix(evidence.sum(axis=1), HARM_WEIGHTS)
        single = mix(mix(evidence, HARM_WEIGHTS), np.full((NUM_STRATA, 1, 1), 1 / NUM_STRATA), axis=1)
        both = mix(np.stack([pooled, single], axis=-1), (POOLED_WEIGHT, 1 - POOLED_WEIGHT))
        late = self.late.log_harm.reshape(-1, len(QUANTILES), len(HARM_WEIGHTS))
        return mix(beside(mix_beginnings(both), mix(late, HARM_WEIGHTS)), QUANTILE_WEIGHTS)

    @property
    def log_pass(self) -> Array:
        """Log e-values against "slower by the effect at some quantile", axis F, since the step began.

        All quantiles must be proven, in all strata with much traffic and in all strata pooled, so the least counts and no level
        is split between them. Pooled alone many fast short prompts would outvote the slow long ones.
        """
        strata = self._by_rollout(self.rates.log_pass)  # rollout, stratum, quantile, effect, way
        pooled = mix(strata.sum(axis=1), GOOD_WEIGHTS).min(axis=1)
        single = mix(strata, GOOD_WEIGHTS).min(axis=2)
        return np.minimum(pooled, np.where(self._heavy[..., None], single, np.inf).min(axis=1))

    @property
    def _seen(self) -> Array:
        """Stable's waits, axes rollout, stratum."""
        return self._by_rollout(self.histogram.sum(axis=1))

    @property
    def _heavy(self) -> NDArray[np.bool_]:
        seen = self._seen
        return np.asarray((seen > 0) & (seen >= HEAVY_SHARE * seen.sum(axis=1, keepdims=True)))

    @property
    def patience_s(self) -> float:
        """A wait beyond which stable's clients, of one rollout, have hardly ever to go: infinite while too little is known."""
        waits = self.histogram.sum(axis=0, keepdims=True)
        if waits.sum() < MIN_STABLE_WAITS:
            return float("inf")
        return max(self.floor_s, self.effect * float(_Tails(waits).limits_s()[0, -1]))

    @property
    def num_canary(self) -> Array:
        return self._by_rollout(self.rates.closed.num_canary)[..., 0].sum(axis=1)

    def pass_growth(self, ratio: float) -> Array:
        """Log e-value that a canary request as fast as stable adds to what must be proven, axis F: the least of them."""
        given = self.alternatives
        stable, good = given.stable[..., None], given.good[..., 0]
        gain = growth(ratio, (stable, good), (stable, good), given.pass_margin, "at_least")
        seen = self._by_rollout(np.where(np.isfinite(self.limits_s), self.histogram.sum(axis=1)[:, None], 0.0))
        share = seen / np.maximum(seen.sum(axis=1, keepdims=True), 1)
        gains = self._by_rollout(gain) * share[..., None]  # rollout, stratum, quantile, effect
        single = np.where(self._heavy[..., None], gains.min(axis=2), np.inf).min(axis=1)
        return np.asarray(np.minimum(gains.sum(axis=1).min(axis=1), single))


def _bin(seconds: Array) -> NDArray[np.int64]:
    place = np.floor(np.log2(np.maximum(seconds, SHORTEST_S) / SHORTEST_S) * BINS_PER_DOUBLING)
    return np.minimum(place, NUM_BINS - 1).astype(np.int64)


class _Tails:
    """How many of stable's waits lie beyond what, by cell."""

    def __init__(self, histogram: Array) -> None:
        self._total = histogram.sum(axis=1)
        below = np.cumsum(histogram, axis=1)
        self._below = np.concatenate([np.zeros((len(histogram), 1)), below], axis=1)

    def limits_s(self) -> Array:
        """The upper ends of the bins in which the quantiles lie."""
        targets = self._total[:, None] * np.array(QUANTILES)
        bins = (self._below[:, None, 1:] < targets[..., None] - 1e-9).sum(axis=-1)
        return np.asarray(SHORTEST_S * 2.0 ** ((bins + 1) / BINS_PER_DOUBLING))

    def share_beyond(self, limits_s: Array) -> Array:
        """Share above each limit (first axis: cells), between the ends of bins in proportion, never quite 0 or 1."""
        place = np.clip(np.log2(np.maximum(limits_s, SHORTEST_S) / SHORTEST_S) * BINS_PER_DOUBLING, 0, NUM_BINS)
        low = np.minimum(np.floor(place).astype(np.int64), NUM_BINS - 1)
        rows = np.arange(len(self._total)).reshape(-1, *[1] * (limits_s.ndim - 1))
        at, after = self._below[rows, low], self._below[rows, low + 1]
        total = self._total.reshape(rows.shape)
        beyond = total - (at + (place - low) * (after - at))
        return np.asarray((beyond + 0.5) / (total + 1))
