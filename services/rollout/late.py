"""Harm that begins late: an e-process that may have begun at any request. Pure; any number of rollouts at once.

A wealth that is bet from the first request on pays for every good one: harm that begins after 20,000 of them is found long after.
Here a small part of the stake is held back and put in bit by bit, so that some of it always begins shortly before the harm does
(Shiryaev's and Roberts' sum, with weights that sum to 1 as in Shin, Ramdas, Rinaldo 2022, "E-detectors: a nonparametric framework
for sequential change detection", arXiv 2203.03532, section on e-processes from e-detectors).

    wealth(t) = (wealth(t - 1) + stake(t)) x e(t),    held back(t) = held back(t - 1) - stake(t)

Proof. e(t) has expectation at most 1 given the past, and stake(t) is fixed before it (by the number of requests alone), so the
expectation of wealth + held back never grows. It begins at 1 and is never negative: an e-process, valid at all looks together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from services.rollout.sequential import Array, mix

LATE_SHARE: Final = 0.1
"""Of the evidence of harm. Harm from the beginning pays 0.1 nats of the 7 or so that it takes."""
FIRST_REQUESTS, NUM_DOUBLINGS = 100.0, 16
"""Each doubling of the canary's requests from the first 100 to 6.5 million gets as much of the stake as any other, since nobody
knows how long a step is. Later beginnings are not watched for."""
FIRST_ITEMS, NUM_ITEM_DOUBLINGS = 50.0, 8
"""The same for scored items, of which there are thousands at most: to 12,750."""


@dataclass(frozen=True)
class LateHarm:
    """State. Axes: rollout, alternative."""

    log_wealth: Array
    num_canary: Array
    """Canary requests so far, axis rollout."""
    first: float = FIRST_REQUESTS
    num_doublings: int = NUM_DOUBLINGS

    @staticmethod
    def start(
        num_rollouts: int, num_harmful: int, first: float = FIRST_REQUESTS, num_doublings: int = NUM_DOUBLINGS
    ) -> LateHarm:
        log_wealth = np.full((num_rollouts, num_harmful), -np.inf)
        return LateHarm(log_wealth, np.zeros(num_rollouts), first, num_doublings)

    def take(self, log_e: Array, num_canary: Array) -> LateHarm:
        """Take in a block's log e-values (0 where none was closed), after which there were `num_canary` canary requests in all."""
        with np.errstate(divide="ignore"):
            stake = np.log(self._invested(num_canary) - self._invested(self.num_canary))
        return replace(self, log_wealth=np.logaddexp(self.log_wealth, stake[:, None]) + log_e, num_canary=num_canary)

    @property
    def log_harm(self) -> Array:
        """Log e-values, axes as the state's."""
        with np.errstate(divide="ignore"):
            held_back = np.log(1 - self._invested(self.num_canary))
        return np.asarray(np.logaddexp(self.log_wealth, held_back[:, None]))

    def _invested(self, num_canary: Array) -> Array:
        return invested(num_canary, self.first, self.num_doublings)


def invested(num_canary: Array, first: float = FIRST_REQUESTS, num_doublings: int = NUM_DOUBLINGS) -> Array:
    """Share of the stake that is at work after so many canary requests."""
    return np.asarray(np.minimum(1.0, np.log2(1 + num_canary / first) / num_doublings))


def beside(early: Array, late: Array, share: float = LATE_SHARE) -> Array:
    """Log e-value of the evidence that began with the rollout or a step and of that which may begin anywhere, which has `share`."""
    return mix(np.stack([early, late], axis=-1), (1 - share, share))
