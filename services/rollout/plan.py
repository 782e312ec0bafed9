"""How long each step of a rollout will take, and after how many requests harm is found, before anything starts. Pure.

The figures are what the tests' own growth comes to (see `sequential`): a proof is there when the expected logarithm of its e-value
reaches the threshold, which happens in about half of all rollouts by then and in most of the rest by twice as many requests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np

from cluster.errors import ConfigError
from services.config import Metric, RolloutConfig, StepConfig
from services.rollout import errors, latency, quality, votes
from services.rollout.findings import Finding
from services.rollout.late import LATE_SHARE
from services.rollout.policy import MIN_CANARY_REQUESTS, MIN_CANARY_VOTES, level_of
from services.rollout.rates import START_WEIGHTS
from services.rollout.sequential import Array, bet, growth
from services.rollout.wording import OF_THEIR_OWN

LATENCY_SPREAD: Final = 0.6
"""Assumed standard deviation of the logarithm of waits for prompts of one length: the 95th percentile is 2.7 times the median.
Waits that differ more take longer to compare."""
SCORE_VARIANCE: Final = 0.15
"""Assumed variance of score differences: 15 % of the items answered rightly by one revision only."""
LONELY_RATIO: Final = 1e6
"""Stable requests to each of the canary's when everybody is on the canary: stable's rate is known from before."""


@dataclass(frozen=True)
class Proof:
    """What one metric takes at one step. Items, for quality, and users' votes on the canary, for feedback, in place of requests."""

    metric: Metric
    effect: float
    """In the margin's unit: a difference of shares, a ratio of waits, a drop of the mean score."""
    requests_to_pass: int | None
    """Canary requests until a canary as good as stable has passed; None when the step does not ask."""
    requests_to_fail: int
    """Until a canary worse by the effect is rolled back."""


@dataclass(frozen=True)
class StepPlan:
    """One step at the expected rate."""

    weight_percent: float
    canary_per_s: float
    """Requests to it, or copies of requests at 0 %."""
    proofs: tuple[Proof, ...]
    duration_s: float
    """Until a canary as good as stable has passed. Items of quality probes and users' votes come on schedules of their own and are
    left out."""
    fits: bool
    """Shorter than the step's time limit."""


def plan(
    config: RolloutConfig,
    rate_per_s: float,
    stable_error_rate: float = errors.PRIOR_RATE,
    copied_percent: float = 0.0,
) -> tuple[StepPlan, ...]:
    """The steps at `rate_per_s` requests to both sides together, with stable failing `stable_error_rate` of its own.

    Args:
        copied_percent: share of requests that are copied while the canary has no users; above 0 where a rollout begins so.
    """
    assert copied_percent > 0 or not config.begins_with_copies, "a recipe that says so is refused"
    shares = (step.weight_percent or copied_percent for step in config.steps)
    pairs = zip(config.steps, shares, strict=True)
    return tuple(_step(config, step, share / 100, rate_per_s, stable_error_rate) for step, share in pairs)


def _step(
    config: RolloutConfig, step: StepConfig, share: float, rate_per_s: float, stable_error_rate: float
) -> StepPlan:
    ratio = (1 - share) / share if share < 1 else LONELY_RATIO
    compared = 0 < step.weight_percent < 100  # copies tell neither; at 100 % nobody waits or votes on stable
    waits = (_waits(config, step, ratio),) if compared else ()
    thumbs = (_thumbs(config, step, ratio),) if config.feedback and compared else ()
    proofs = (_errors(config, step, ratio, stable_error_rate), *waits, _scores(config, step), *thumbs)
    asked = [proof.requests_to_pass or 0 for proof in proofs if proof.metric not in OF_THEIR_OWN]
    canary_per_s = rate_per_s * share
    duration_s = max(step.min_duration_s, max(step.min_requests, *asked) / canary_per_s)
    return StepPlan(step.weight_percent, canary_per_s, proofs, duration_s, duration_s <= config.step_timeout_s)


def _errors(config: RolloutConfig, step: StepConfig, ratio: float, rate: float) -> Proof:
    return _rates("errors", config, step, ratio, rate)


def _thumbs(config: RolloutConfig, step: StepConfig, ratio: float) -> Proof:
    """Votes of users, each counted once: how many of them vote is not known beforehand."""
    return _rates("feedback", config, step, ratio, votes.PRIOR.rate)


def _rates(metric: Metric, config: RolloutConfig, step: StepConfig, ratio: float, rate: float) -> Proof:
    effect, margin = config.effect(metric, step), config.margin(metric)
    aims = errors.alternatives(np.array(rate), margin, config.effect(metric), (effect,))
    worse = min(rate + effect, 1.0)
    found = growth(ratio, (rate, worse), (rate, aims.harmful), margin, "at_most")
    passed = growth(ratio, (rate, rate), (rate, aims.good[0]), effect, "at_least")
    least = MIN_CANARY_VOTES if metric == "feedback" else MIN_CANARY_REQUESTS
    to_fail = _until(found, errors.HARM_WEIGHTS, _harm_threshold(config, metric, copies=step.weight_percent == 0))
    return Proof(
        metric,
        effect,
        _until(passed, errors.GOOD_WEIGHTS, config.beta) if metric in step.prove else None,
        max(least, to_fail),
    )


def _waits(config: RolloutConfig, step: StepConfig, ratio: float) -> Proof:
    """Time to the first token; time per token is alike. Taken at each quantile as if the waits were log-normal."""
    effect, margin = config.effect("ttft", step), config.margin("ttft")
    scales = margin * (config.effect("ttft") / margin) ** np.array(latency.HARM_SCALES)
    to_pass, to_fail = 0, 10**9
    for level, weight in zip(latency.QUANTILES, latency.QUANTILE_WEIGHTS, strict=True):
        aims = [*(_beyond(level, margin / scale) for scale in scales), latency.HARM_RATE]
        found = growth(ratio, (1 - level, _beyond(level, margin / effect)), (1 - level, aims), 0.0, "at_most")
        weights = np.array(latency.HARM_WEIGHTS) * weight * latency.POOLED_WEIGHT
        to_fail = min(to_fail, _until(found, tuple(weights), _harm_threshold(config, "ttft")))
        good = [_beyond(level, effect), _beyond(level, effect / margin**0.5)]
        passed = growth(ratio, (1 - level, good[0]), (1 - level, good), 0.0, "at_least")
        to_pass = max(to_pass, _until(passed, latency.GOOD_WEIGHTS, config.beta))
    return Proof("ttft", effect, to_pass if {"ttft", "tpot"} & set(step.prove) else None, to_fail)


def _beyond(level: float, factor: float) -> float:
    """Share of waits beyond `factor` times their quantile."""
    normal = NormalDist()
    return 1 - normal.cdf(normal.inv_cdf(level) + math.log(factor) / LATENCY_SPREAD)


def _scores(config: RolloutConfig, step: StepConfig) -> Proof:
    effect, margin = config.effect("quality", step), config.margin("quality")
    stakes = bet((config.effect("quality") - margin) * np.array(quality.HARM_SCALES), SCORE_VARIANCE, margin)
    found = stakes * (effect - margin) - stakes**2 * (SCORE_VARIANCE + (effect - margin) ** 2) / 2
    stakes = bet(effect * np.array(quality.GOOD_SCALES), SCORE_VARIANCE, effect)
    passed = stakes * effect - stakes**2 * (SCORE_VARIANCE + effect**2) / 2
    return Proof(
        "quality",
        effect,
        _until(passed, quality.GOOD_WEIGHTS, config.beta) if "quality" in step.prove else None,
        _until(found, quality.HARM_WEIGHTS, _harm_threshold(config, "quality")),
    )


def _harm_threshold(config: RolloutConfig, metric: Metric, copies: bool = False) -> float:
    """Level that is left for the first stretch's evidence."""
    return level_of(config, Finding(metric=metric, copies=copies)) * START_WEIGHTS[0] * (1 - LATE_SHARE)


def _until(growths: Array, weights: tuple[float, ...], level: float) -> int:
    """Requests after which the first of the weighted alternatives has grown to 1/level."""
    costs = [math.log(1 / (level * weight)) / gain for gain, weight in zip(growths, weights, strict=True) if gain > 0]
    return math.ceil(min(costs, default=1e9))


def per_second(rate: str) -> float:
    """`50/s`, `300/min` or `2000/h` as requests a second.

    Raises:
        ConfigError: that is no rate.
    """
    units = {"s": 1.0, "min": 60.0, "h": 3600.0}
    number, _, unit = rate.partition("/")
    try:
        found = float(number) / units[unit or "s"]
    except (ValueError, KeyError):
        found = 0.0
    if not 0 < found < math.inf:
        raise ConfigError("--rate", f"{rate!r} is no rate of requests", "write it as 50/s, 300/min or 2000/h")
    return found
