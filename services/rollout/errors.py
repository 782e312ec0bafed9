"""Harmful answers (or thumbs down, see votes.py): is the canary's rate above stable's by more than the margin? Pure; any number
of rollouts at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np

from services.rollout.late import LateHarm, beside
from services.rollout.rates import Alternatives, Block, RateTest, mix_beginnings
from services.rollout.sequential import Array, growth, mix

PRIOR_RATE: Final = 0.005
LEAST_RATE: Final = 1e-4


class Prior(NamedTuple):
    """What stable's rate is taken for before anything is known. Costs power if wrong."""

    rate: float
    number: float
    """Of requests that it counts for."""
    least: float
    """Nor is it aimed at less than this: far below the margin it makes no difference to power."""


PRIOR: Final = Prior(PRIOR_RATE, 50.0, LEAST_RATE)
HARM_SCALES: Final = (0.4, 0.7, 1.2, 3.0)
"""Alternatives, as multiples of what the declared effect is beyond the margin. The test is aimed below the effect: rollouts
unlucky enough to be found late look as if the effect were smaller."""
HARM_RATES: Final = (0.5, 0.95)
"""Alternatives as rates: a canary that breaks every second answer, or nearly all, is found within a handful of requests."""
HARM_WEIGHTS: Final = (0.1, 0.6, 0.15, 0.05, 0.05, 0.05)
GOOD_WEIGHTS: Final = (0.5, 0.5)
"""Ways to be good: exactly as stable, or as bad as half the margin allows."""


@dataclass(frozen=True)
class ErrorTest:
    """`effects` and `margin` are differences of rates, in [0, 1)."""

    margin: float
    effect: float
    """The harm that the test for harm is aimed at."""
    excluded: tuple[float, ...]
    """Effects that passing excludes."""
    rates: RateTest
    late: LateHarm
    prior: Prior = PRIOR

    @staticmethod
    def start(
        margin: float, effect: float, excluded: tuple[float, ...], num_rollouts: int = 1, prior: Prior = PRIOR
    ) -> ErrorTest:
        rates = RateTest.start((num_rollouts,), len(HARM_WEIGHTS), len(excluded), len(GOOD_WEIGHTS))
        return ErrorTest(margin, effect, excluded, rates, LateHarm.start(num_rollouts, len(HARM_WEIGHTS)), prior)

    def take(self, stable: tuple[Array, Array], canary: tuple[Array, Array], alone: float | None = None) -> ErrorTest:
        """Take in what came between two looks: (requests, harmful ones) of each side."""
        num_canary, hits = np.asarray(canary[0], float), np.asarray(canary[1], float)
        repeated = np.repeat(hits[..., None], 1 + len(self.excluded), axis=-1)
        block = Block(np.asarray(stable[0], float), np.asarray(stable[1], float), num_canary, repeated)
        rates = self.rates.take(block, self.alternatives, alone)
        late = self.late.take(rates.log_harm - self.rates.log_harm, rates.closed.num_canary)
        return replace(self, rates=rates, late=late)

    def restart(self) -> ErrorTest:
        return replace(self, rates=self.rates.restart())

    @property
    def stable_rate(self) -> Array:
        """Of the blocks before, drawn towards the prior."""
        seen = self.rates.closed
        prior = self.prior
        rate: Array = (seen.hits_stable + prior.rate * prior.number) / (seen.num_stable + prior.number)
        return np.maximum(rate, prior.least)

    @property
    def alternatives(self) -> Alternatives:
        return alternatives(self.stable_rate, self.margin, self.effect, self.excluded)

    @property
    def log_harm(self) -> Array:
        """Log e-value against "not worse than the margin allows", over the whole rollout."""
        early = mix_beginnings(mix(self.rates.harm_by_beginning, HARM_WEIGHTS))
        late = mix(self.late.log_harm, HARM_WEIGHTS)
        return beside(early, late)

    @property
    def log_pass(self) -> Array:
        """Log e-values against "worse by the effect", axis F, since the step began."""
        return mix(self.rates.log_pass, GOOD_WEIGHTS)

    def pass_growth(self, ratio: float) -> Array:
        """Log e-value that a canary request as good as stable adds, axis F; `ratio` stable requests to each of its own."""
        given = self.alternatives
        rate = given.stable[..., None]
        return growth(ratio, (rate, rate), (rate, given.good[..., 0]), given.pass_margin, "at_least")


def alternatives(stable: Array, margin: float, effect: float, excluded: tuple[float, ...]) -> Alternatives:
    """What the tests are aimed at when stable's rate is `stable`."""
    scaled = stable[..., None] + margin + (effect - margin) * np.array(HARM_SCALES)
    fixed = np.broadcast_to(np.array(HARM_RATES), (*stable.shape, len(HARM_RATES)))
    good = np.broadcast_to(
        stable[..., None, None] + margin * np.array([0, 0.5]), (*stable.shape, len(excluded), len(GOOD_WEIGHTS))
    )
    return Alternatives(stable, np.concatenate([scaled, fixed], axis=-1), good, margin, np.array(excluded))
