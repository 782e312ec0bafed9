"""Quality: both revisions answer the same items, and the mean difference of their scores is bet on. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.rollout.late import FIRST_ITEMS, NUM_ITEM_DOUBLINGS, LateHarm, beside
from services.rollout.rates import START_WEIGHTS, mix_beginnings
from services.rollout.sequential import Array, bet, log_e_mean, mix

PRIOR_VARIANCE, PRIOR_ITEMS = 0.2, 10.0
"""What the differences' variance is taken for before anything is known, and for how many items that counts."""
HARM_SCALES: Final = (0.4, 0.75, 1.2, 3.0)
"""Bets, as multiples of the one that suits the declared effect; why they aim below it is said in errors.py."""
HARM_WEIGHTS: Final = (0.1, 0.7, 0.15, 0.05)
GOOD_SCALES: Final = (0.5, 1.0)
GOOD_WEIGHTS: Final = (0.5, 0.5)


@dataclass(frozen=True)
class QualityTest:
    """State for any number of rollouts at once; scores are in [0, 1], so differences are in [-1, 1]."""

    margin: float
    """Drop of the mean score that is tolerated."""
    effect: float
    """Drop that the test for harm is aimed at."""
    excluded: tuple[float, ...]
    """Drops that passing excludes."""
    num_items: Array
    total: Array
    squares: Array
    log_harm_by_bet: Array
    """Axis A: evidence since the rollout began."""
    log_harm_before: Array
    """Axes P, A."""
    log_pass_by_bet: Array
    """Axes F, B: evidence since the rollout began. An item is asked once in a rollout, and what it shows of the answers does not
    depend on the weight, so a proof stays one at later steps."""
    late: LateHarm
    late_share: float = 0.0
    """Of the evidence of harm, what may begin anywhere; none where the test is of one short round."""
    num_beginnings: int = 1
    scales: tuple[float, ...] = HARM_SCALES
    weights: tuple[float, ...] = HARM_WEIGHTS

    @staticmethod
    def start(
        margin: float,
        effect: float,
        excluded: tuple[float, ...],
        num_rollouts: int = 1,
        *,
        late_share: float = 0.0,
        scales: tuple[float, ...] = HARM_SCALES,
        weights: tuple[float, ...] = HARM_WEIGHTS,
    ) -> QualityTest:
        """`scales`: bets against harm, as multiples of the one that suits the effect; `weights` sum to 1."""
        none = np.zeros(num_rollouts)
        return QualityTest(
            margin,
            effect,
            excluded,
            none,
            none,
            none,
            np.zeros((num_rollouts, len(scales))),
            np.zeros((num_rollouts, len(START_WEIGHTS), len(scales))),
            np.zeros((num_rollouts, len(excluded), len(GOOD_SCALES))),
            LateHarm.start(num_rollouts, len(scales), FIRST_ITEMS, NUM_ITEM_DOUBLINGS),
            late_share,
            scales=scales,
            weights=weights,
        )

    @property
    def mean(self) -> Array:
        """Of the canary's score minus stable's."""
        return np.asarray(self.total / np.maximum(self.num_items, 1))

    @property
    def variance(self) -> Array:
        spread = self.squares - self.num_items * self.mean**2 + PRIOR_ITEMS * PRIOR_VARIANCE
        return np.asarray(spread / (self.num_items + PRIOR_ITEMS))

    def take(self, rollout: NDArray[np.int64], differences: Array) -> QualityTest:
        """Take in a look's differences (canary's score minus stable's), each with the index of its rollout.

        Bets are placed before the look: mean and variance are those of earlier looks.
        """
        harm = log_e_mean(-differences[:, None], self._harm_bets[rollout], self.margin)
        good = [
            log_e_mean(differences[:, None], bets[rollout], -drop)
            for drop, bets in zip(self.excluded, self._good_bets, strict=True)
        ]
        passed = np.stack(good, axis=1) if good else np.zeros((len(differences), 0, len(GOOD_SCALES)))
        added, num_items = self._sums(rollout, harm), self.num_items + self._sums(rollout, np.ones(len(differences)))
        return replace(
            self,
            num_items=num_items,
            late=self.late.take(added, num_items),
            total=self.total + self._sums(rollout, differences),
            squares=self.squares + self._sums(rollout, differences**2),
            log_harm_by_bet=self.log_harm_by_bet + added,
            log_pass_by_bet=self.log_pass_by_bet + self._sums(rollout, passed),
        )

    def _sums(self, rollout: NDArray[np.int64], values: Array) -> Array:
        sums = np.zeros((len(self.num_items), *values.shape[1:]))
        np.add.at(sums, rollout, values)
        return sums

    @property
    def _harm_bets(self) -> Array:
        beyond = (self.effect - self.margin) * np.array(self.scales)
        return bet(beyond, self.variance[:, None], self.margin)

    @property
    def _good_bets(self) -> list[Array]:
        scales = np.array(GOOD_SCALES)
        return [bet(drop * scales, self.variance[:, None], drop) for drop in self.excluded]

    def restart(self) -> QualityTest:
        before = self.log_harm_before.copy()
        before[:, min(self.num_beginnings, len(START_WEIGHTS)) :] = self.log_harm_by_bet[:, None]
        return replace(
            self,
            log_harm_before=before,
            num_beginnings=self.num_beginnings + 1,
        )

    @property
    def log_harm(self) -> Array:
        """Log e-value against "not worse than the margin allows", over the whole rollout."""
        reached = min(self.num_beginnings, len(START_WEIGHTS))
        since = self.log_harm_by_bet[:, None] - self.log_harm_before[:, :reached]
        early = mix_beginnings(mix(since, self.weights))
        return beside(early, mix(self.late.log_harm, self.weights), self.late_share)

    @property
    def log_pass(self) -> Array:
        """Log e-values against "worse by the effect", axis F, over the whole rollout."""
        return mix(self.log_pass_by_bet, GOOD_WEIGHTS)

    @property
    def pass_growth(self) -> Array:
        """Log e-value that an item adds when both revisions are equally good, axis F (to the second order)."""
        stakes = [bets[:, -1] for bets in self._good_bets]
        gains = [s * drop - s**2 * (self.variance + drop**2) / 2 for s, drop in zip(stakes, self.excluded, strict=True)]
        return np.stack(gains, axis=-1)
