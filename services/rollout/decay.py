"""Has a promoted model decayed? Its scores now against those recorded at its promotion, item by item. Pure.

What a drop means. The items are taken for a sample of all the questions they stand for, and the drop is the mean over all of
those. On these very items it is known exactly after one round, which is no ground for acting: of 25 items one that tips over is 4
points. So a round establishes a drop only where that many items can; with fewer the finding says how many would.

Rounds. At temperature 0 a model that has not changed gives the same answers again. A second round is therefore no fresh sample:
a wealth multiplied on over rounds would grow without end out of one unlucky set. Each round is a test of its own, which uses
nothing of the rounds before, and round r has the level alpha / (r (r + 1)). These sum to alpha, so the watch as a whole keeps it by
the union bound, whatever the rounds have in common. Within a round the test is that of a rollout's paired scores (`quality`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from cluster.config import StrictModel
from services.config import DecayConfig
from services.rollout.probes import ProbeAnswer
from services.rollout.quality import QualityTest

BETA = 0.05
"""Level at which a round says that a drop of `effect_points` is excluded. It only informs: nothing is done because of it."""


HARM_SCALES = (0.75, 1.5, 5.0, 15.0)
HARM_WEIGHTS = (0.4, 0.2, 0.2, 0.2)
"""Bets far beyond the effect too: it lies close to the margin, and what breaks a model mostly costs it many times as much."""


class DecayFinding(StrictModel):
    """What one round comes to so far. Scores and drops are in [0, 1] and [-1, 1]; logarithms are natural."""

    round: int
    num_items: int
    before: float = 0.0
    """Mean recorded score of the items asked so far in this round."""
    now: float = 0.0
    log_harm: float = 0.0
    """Of the e-value against "the drop is at most the margin"."""
    log_threshold: float = 0.0
    """What it must reach, in this round."""
    log_pass: float = 0.0
    """Of the e-value against "the drop is at least the effect"."""
    needed: int | None = None
    """Items in all that would establish a drop as large as the one seen; None when it is within the margin."""
    lacking: int | None = None
    """More items that would exclude a drop of the effect's size if scores go on like this; None when the drop is as large, or
    something is established."""

    @property
    def drop(self) -> float:
        return self.before - self.now

    @property
    def verdict(self) -> Literal["passed", "failed", "inconclusive"]:
        """failed: decayed. passed: a drop of the effect's size is excluded."""
        if self.log_harm >= self.log_threshold:
            return "failed"
        return "passed" if self.log_pass >= math.log(1 / BETA) else "inconclusive"

    def told(self, config: DecayConfig) -> str:
        """For people."""
        seen = f"{self.before:.1%} then, {self.now:.1%} now on {self.num_items} items (round {self.round})"
        margin, effect = config.max_accuracy_drop_points, config.effect_points
        match self.verdict:
            case "failed":
                return f"{seen}: a drop of more than {margin:g} points is established"
            case "passed":
                return f"{seen}: a drop of {effect:g} points is excluded"
        if self.needed is not None:
            return (
                f"{seen}: {self.drop * 100:.1f} points down, which this many items do not establish to be more than "
                f"{margin:g}: about {self.needed} would"
            )
        return f"{seen}: {self._within(config)}"

    def _within(self, config: DecayConfig) -> str:
        """Of a drop within the margin, of which it is open whether it stands for a larger one."""
        margin, effect = config.max_accuracy_drop_points, config.effect_points
        down = f"{self.drop * 100:.1f} points down, " if self.drop > 0 else ""
        if self.lacking is None:
            return f"{down}no drop beyond {margin:g} points"
        more = f"about {self.lacking} more items would exclude one of {effect:g}"
        return f"{down}no drop beyond {margin:g} points is established; {more}"


def level(config: DecayConfig, number: int) -> float:
    """The share of alpha of round `number` (1, 2, ...)."""
    return config.alpha / (number * (number + 1))


def start(config: DecayConfig, num_watches: int = 1) -> QualityTest:
    """The test of a round, before its first item."""
    margin, effect = config.max_accuracy_drop_points / 100, config.effect_points / 100
    return QualityTest.start(margin, effect, (effect,), num_watches, scales=HARM_SCALES, weights=HARM_WEIGHTS)


class Round:
    """The test of one round, which takes each answer once: an answer more costs the same however many came before."""

    def __init__(self, config: DecayConfig, number: int) -> None:
        self._config, self._number, self._test = config, number, start(config)
        self._num_items, self._highest, self._before, self._now = 0, 0.0, 0.0, 0.0

    def after(self, answers: Sequence[ProbeAnswer]) -> DecayFinding:
        """The finding after all of `answers`, in the order in which they came; those of the call before come first again."""
        for answer in answers[self._num_items :]:
            self._take(answer)
        return self._finding()

    def _take(self, answer: ProbeAnswer) -> None:
        self._test = self._test.take(np.zeros(1, int), np.array([answer.now - answer.before]))
        self._highest = max(self._highest, float(self._test.log_harm[0]))
        self._num_items += 1
        self._before += answer.before
        self._now += answer.now

    def _finding(self) -> DecayFinding:
        before, now = (total / max(1, self._num_items) for total in (self._before, self._now))
        margin, effect = self._config.max_accuracy_drop_points / 100, self._config.effect_points / 100
        share, variance = level(self._config, self._number), float(self._test.variance[0])
        log_pass = float(self._test.log_pass[0, 0])
        is_open = self._highest < math.log(1 / share) and log_pass < math.log(1 / BETA)
        left = effect - (before - now)
        return DecayFinding(
            round=self._number,
            num_items=self._num_items,
            before=before,
            now=now,
            log_harm=self._highest,  # what was established once stays so: the test is one of its highest value
            log_threshold=math.log(1 / share),
            log_pass=log_pass,
            needed=items_needed(before - now, margin, variance, share),
            lacking=items_needed(left, 0.0, variance, BETA * math.exp(log_pass)) if is_open else None,
        )


def judge_round(config: DecayConfig, number: int, answers: Sequence[ProbeAnswer]) -> DecayFinding:
    """The finding after `answers`, in the order in which they came."""
    return Round(config, number).after(answers)


def items_needed(drop: float, margin: float, variance: float, share: float) -> int | None:
    """Items until a steady drop like this is established at the level `share`, in about half of all cases.

    An item adds s g - s^2 (variance + g^2) / 2 to the logarithm, g being the drop beyond the margin (to the second order of
    log(1 + x)); the best stake s makes that g^2 / (2 (variance + g^2)).
    """
    beyond = drop - margin
    if beyond < 1e-6:  # on the margin, but for rounding
        return None
    return math.ceil(math.log(1 / share) * 2 * (variance + beyond**2) / beyond**2)
