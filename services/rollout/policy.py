"""What to do about a rollout, as a pure function of (configuration, status, evidence, now).

Thin: each test holds its level at one look only, so the chance of a false rollback grows with looks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar, Final, Literal

from pydantic import Field

from cluster.config import StrictModel
from services.config import RolloutConfig, StepConfig
from services.rollout import exact
from services.rollout.status import Decision, RolloutStatus, Verdict

MIN_CANARY_REQUESTS: Final = 3
"""Fewer never fail a canary, whatever the test says: one user's retries are no evidence."""


class Counts(StrictModel):
    """What one side answered."""

    num_requests: int = Field(default=0, ge=0)
    """Answered or failed; what the client gave up is left out."""
    num_harmful: int = Field(default=0, ge=0)
    waits_s: tuple[float, ...] = Field(default=())
    """Time to first token; of a request that its client gave up before the first, the time until then."""


class Evidence(StrictModel):
    """Both sides, since the step began."""

    stable: Counts = Counts()
    canary: Counts = Counts()


@dataclass(frozen=True)
class _Judgement:
    verdict: Verdict
    reason: str
    message: str
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Hold(_Judgement):
    """Leave everything as it is."""

    action: ClassVar[Literal["hold"]] = "hold"


@dataclass(frozen=True)
class SetWeight(_Judgement):
    """Go on to the step with that index."""

    action: ClassVar[Literal["set_weight"]] = "set_weight"
    step: int = 0
    weight_percent: float = 0.0


@dataclass(frozen=True)
class Promote(_Judgement):
    """Make the candidate stable."""

    action: ClassVar[Literal["promote"]] = "promote"


@dataclass(frozen=True)
class Rollback(_Judgement):
    """Take the candidate out."""

    action: ClassVar[Literal["rollback"]] = "rollback"


Action = Hold | SetWeight | Promote | Rollback


def decide(config: RolloutConfig, status: RolloutStatus, evidence: Evidence, now: datetime) -> Action:
    """The next act. Failure may be found at any time; a pass needs the step's floor of requests and time."""
    assert status.phase == "progressing", f"nothing is to be decided about a rollout that is {status.phase}"
    numbers = measure(config, evidence)
    if failure := _failure(config, evidence, numbers):
        return failure
    if status.held:
        return Hold("inconclusive", "held", f"held at {status.weight_percent:g} % by a person", numbers)
    step = config.steps[status.step]
    elapsed_s = (now - status.step_started_at).total_seconds()
    if missing := _missing(step, evidence, elapsed_s):
        if elapsed_s >= config.step_timeout_s:
            message = f"not enough evidence within {config.step_timeout_s:g} s: {missing}"
            return Rollback("inconclusive", "inconclusive", message, numbers)
        return Hold("inconclusive", "not_enough_evidence", f"waiting for {missing}", numbers)
    return _next(config, status.step, numbers)


def measure(config: RolloutConfig, evidence: Evidence) -> dict[str, float]:
    """The numbers that decisions rest on: counts, shares in percent, latencies in seconds, p-values."""
    stable, canary = evidence.stable, evidence.canary
    numbers = {
        "stable_requests": float(stable.num_requests),
        "stable_harmful": float(stable.num_harmful),
        "canary_requests": float(canary.num_requests),
        "canary_harmful": float(canary.num_harmful),
    }
    if canary.num_requests and stable.num_requests:
        margin = config.max_error_increase_percent / 100
        sides = ((canary.num_harmful, canary.num_requests), (stable.num_harmful, stable.num_requests))
        numbers["error_p_value"] = exact.rate_increase_p_value(*sides, margin, config.alpha)
    if canary.waits_s and stable.waits_s:
        numbers |= _measure_latency(config, stable.waits_s, canary.waits_s)
    return numbers


def _measure_latency(
    config: RolloutConfig, stable_s: tuple[float, ...], canary_s: tuple[float, ...]
) -> dict[str, float]:
    stable_quantile_s, rank = exact.quantile(stable_s, config.latency_quantile)
    threshold_s = max(config.latency_floor_s, config.max_latency_ratio * stable_quantile_s)
    slow = sum(wait_s > threshold_s for wait_s in canary_s)
    return {
        "stable_ttft_s": stable_quantile_s,
        "canary_ttft_s": exact.quantile(canary_s, config.latency_quantile)[0],
        "ttft_threshold_s": threshold_s,
        "canary_waits": float(len(canary_s)),
        "canary_slow": float(slow),
        "latency_p_value": exact.exceedance_p_value(slow, len(canary_s), len(stable_s), rank),
    }


def _failure(config: RolloutConfig, evidence: Evidence, numbers: dict[str, float]) -> Rollback | None:
    stable, canary = evidence.stable, evidence.canary
    if canary.num_requests >= MIN_CANARY_REQUESTS and numbers.get("error_p_value", 1.0) < config.alpha:
        message = (
            f"{canary.num_harmful} of {canary.num_requests} canary answers harmful, stable {stable.num_harmful} of "
            f"{stable.num_requests}; {config.max_error_increase_percent:g} points more are allowed "
            f"(p = {numbers['error_p_value']:.2g})"
        )
        return Rollback("failed", "error_rate", message, numbers)
    if len(canary.waits_s) >= MIN_CANARY_REQUESTS and numbers.get("latency_p_value", 1.0) < config.alpha:
        message = (
            f"{numbers['canary_slow']:.0f} of {len(canary.waits_s)} canary answers began later than "
            f"{numbers['ttft_threshold_s']:.3g} s, {1 - config.latency_quantile:.0%} are allowed "
            f"(p = {numbers['latency_p_value']:.2g})"
        )
        return Rollback("failed", "latency", message, numbers)
    return None


def _missing(step: StepConfig, evidence: Evidence, elapsed_s: float) -> str:
    """What the step still lacks to pass, for people; empty when nothing."""
    lacks = []
    if (requests := step.min_requests - evidence.canary.num_requests) > 0:
        lacks.append(f"{requests} more canary requests")
    if evidence.stable.num_requests == 0:
        lacks.append("requests to stable to compare with")
    if elapsed_s < step.min_duration_s:
        lacks.append(f"{math.ceil(step.min_duration_s - elapsed_s)} s more at this step")
    return ", ".join(lacks)


def _next(config: RolloutConfig, step: int, numbers: dict[str, float]) -> Promote | SetWeight:
    found = (
        f"{numbers['canary_harmful']:.0f} of {numbers['canary_requests']:.0f} canary answers harmful, stable "
        f"{numbers['stable_harmful']:.0f} of {numbers['stable_requests']:.0f}"
    )
    if "latency_p_value" in numbers:
        found += f"; ttft {numbers['canary_ttft_s']:.3g} s, stable {numbers['stable_ttft_s']:.3g} s"
    if step + 1 == len(config.steps):
        return Promote("passed", "all_steps_passed", f"last step passed ({found}): promote", numbers)
    weight = config.steps[step + 1].weight_percent
    return SetWeight("passed", "step_passed", f"go to {weight:g} % ({found})", numbers, step + 1, weight)


def as_decision(action: Action, status: RolloutStatus, now: datetime) -> Decision:
    """The record of `action`, decided by the analysis."""
    match action:
        case SetWeight():
            step, weight = action.step, action.weight_percent
        case Hold():
            step, weight = status.step, status.weight_percent
        case Promote():
            step, weight = status.step, 100.0
        case Rollback():
            step, weight = status.step, 0.0
    return Decision(
        action=action.action,
        verdict=action.verdict,
        reason=action.reason,
        message=action.message,
        step=step,
        weight_percent=weight,
        numbers=action.numbers,
        at=now,
    )
