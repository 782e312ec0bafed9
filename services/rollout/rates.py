"""The running tests of rates: what both sides had between two looks, multiplied up over a rollout. Pure.

A `RateTest` has any shape of cells (none for errors, strata x quantiles for latency); every cell waits until a block has
requests of both sides, and then multiplies the block's e-value (`sequential.log_e_rates`) into its evidence. A block is
closed by numbers of requests alone, never by what came of them, so that waiting for the other side keeps the level.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.rollout.sequential import Array, log_e_rate_alone, log_e_rates, mix, rate_bound

START_WEIGHTS: Final = (0.8, 0.1, 0.04, 0.03, 0.015, 0.01, 0.005)
"""Evidence of harm begins anew with each stretch of one weight, and the average over beginnings decides: harm that shows only
under a step's load is not drowned by all the good requests before. The first stretch is where harm is mostly found, so it
gets the most; a beginning that is not reached yet counts with e-value 1. They add up to 1, which keeps the level."""
BOUND_SHARE: Final = 0.05
"""Share of a level spent on not knowing stable's rates, all cells together, when nobody is on stable any more."""


@dataclass(frozen=True)
class Alternatives:
    """Fixed before a block: stable's rate, and the canary's if it is harmful (axis A) or good (axes F, B).

    F are the effects to be excluded, B the ways to be good.
    """

    stable: Array
    harmful: Array
    good: Array
    harm_margin: float
    pass_margin: Array
    """With axis F."""

    def at(self, cells: NDArray[np.bool_]) -> Alternatives:
        """Those of `cells`, as one axis."""
        margin = np.broadcast_to(self.pass_margin, self.good.shape[:-1])
        return Alternatives(self.stable[cells], self.harmful[cells], self.good[cells], self.harm_margin, margin[cells])


@dataclass(frozen=True)
class Block:
    """What came of both sides in each cell. `hits_canary` has one more axis: hits that count for harm, then for each of F."""

    num_stable: Array
    hits_stable: Array
    num_canary: Array
    hits_canary: Array

    @staticmethod
    def empty(shape: tuple[int, ...], num_effects: int) -> Block:
        return Block(np.zeros(shape), np.zeros(shape), np.zeros(shape), np.zeros((*shape, 1 + num_effects)))

    def plus(self, other: Block) -> Block:
        return Block(
            self.num_stable + other.num_stable,
            self.hits_stable + other.hits_stable,
            self.num_canary + other.num_canary,
            self.hits_canary + other.hits_canary,
        )

    def at(self, cells: NDArray[np.bool_]) -> Block:
        """That of `cells`, as one axis."""
        parts = (self.num_stable, self.hits_stable, self.num_canary, self.hits_canary)
        return Block(*(part[cells] for part in parts))

    def where(self, cells: NDArray[np.bool_]) -> Block:
        """This block in `cells`, nothing in the others."""
        return Block(
            np.where(cells, self.num_stable, 0.0),
            np.where(cells, self.hits_stable, 0.0),
            np.where(cells, self.num_canary, 0.0),
            np.where(cells[..., None], self.hits_canary, 0.0),
        )


@dataclass(frozen=True)
class RateTest:
    """State of the tests in all cells."""

    pending: Block
    closed: Block
    """Of the whole rollout."""
    log_harm: Array
    """Axis A: evidence since the rollout began."""
    log_harm_before: Array
    """Axes P, A: what it was when each stretch began."""
    log_pass: Array
    """Axes F, B: evidence since the present stretch began."""
    num_beginnings: int = 1

    @staticmethod
    def start(shape: tuple[int, ...], num_harmful: int, num_effects: int, num_good: int) -> RateTest:
        return RateTest(
            pending=Block.empty(shape, num_effects),
            closed=Block.empty(shape, num_effects),
            log_harm=np.zeros((*shape, num_harmful)),
            log_harm_before=np.zeros((*shape, len(START_WEIGHTS), num_harmful)),
            log_pass=np.zeros((*shape, num_effects, num_good)),
        )

    def restart(self) -> RateTest:
        """A new stretch begins: passing is proven anew, and harm gets another beginning."""
        number = min(self.num_beginnings, len(START_WEIGHTS))
        before = self.log_harm_before.copy()
        before[..., number:, :] = self.log_harm[..., None, :]
        return replace(
            self,
            log_harm_before=before,
            log_pass=np.zeros_like(self.log_pass),
            num_beginnings=self.num_beginnings + 1,
        )

    def take(self, block: Block, alternatives: Alternatives, alone: float | None = None) -> RateTest:
        """Take in a look's block. `alone` is the level when nobody is on stable, so that its past has to do."""
        pending = self.pending.plus(block)
        complete = (pending.num_canary > 0) & ((pending.num_stable > 0) | (alone is not None))
        log_harm, log_pass = self.log_harm.copy(), self.log_pass.copy()
        if complete.any():
            here, given = pending.at(complete), alternatives.at(complete)
            if alone is None:
                harm, passed = _both(here, given)
            else:
                harm, passed = _alone(here, given, self.closed.at(complete), alone * BOUND_SHARE / complete.size)
            log_harm[complete] += harm
            log_pass[complete] += passed
        closed = self.closed.plus(pending.where(complete))
        return replace(self, pending=pending.where(~complete), closed=closed, log_harm=log_harm, log_pass=log_pass)

    @property
    def harm_by_beginning(self) -> Array:
        """Axes P, A: log e-values since each beginning that is reached."""
        reached = min(self.num_beginnings, len(START_WEIGHTS))
        return np.asarray(self.log_harm[..., None, :] - self.log_harm_before[..., :reached, :])


def mix_beginnings(log_values: Array) -> Array:
    """The average over beginnings (the last axis); those not reached count with e-value 1."""
    reached = log_values.shape[-1]
    waiting = np.zeros((*log_values.shape[:-1], 1))
    weights = (*START_WEIGHTS[:reached], max(0.0, 1 - sum(START_WEIGHTS[:reached])))
    return mix(np.concatenate([log_values, waiting], axis=-1), weights)


def _both(block: Block, given: Alternatives) -> tuple[Array, Array]:
    stable = block.num_stable[..., None], block.hits_stable[..., None]
    canary = block.num_canary[..., None], block.hits_canary[..., :1]
    rates = given.stable[..., None], given.harmful
    harm = log_e_rates(stable, canary, rates, given.harm_margin, "at_most")
    stable = stable[0][..., None], stable[1][..., None]
    canary = block.num_canary[..., None, None], block.hits_canary[..., 1:, None]
    rates = given.stable[..., None, None], given.good
    return harm, log_e_rates(stable, canary, rates, given.pass_margin[..., None], "at_least")


def _alone(block: Block, given: Alternatives, past: Block, level: float) -> tuple[Array, Array]:
    highest = rate_bound(past.num_stable, past.hits_stable, level, "upper")
    lowest = rate_bound(past.num_stable, past.hits_stable, level, "lower")
    canary = block.num_canary[..., None], block.hits_canary[..., :1]
    border = (highest + given.harm_margin)[..., None]
    harm = log_e_rate_alone(canary, given.harmful + (highest - given.stable)[..., None], border, "at_most")
    canary = block.num_canary[..., None, None], block.hits_canary[..., 1:, None]
    border = (lowest[..., None] + given.pass_margin)[..., None]
    return harm, log_e_rate_alone(canary, given.good, border, "at_least")
