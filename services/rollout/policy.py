"""What to do about a rollout, as a pure function of (configuration, status, evidence, now).

Each metric has two e-values (see `sequential`): against "no worse than the margin allows", over the whole rollout, and against
"worse by the effect", since the step began (for quality and feedback: since the rollout began). The first at 1/alpha rolls back, at
any moment; the second at 1/beta proves the step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar, Final, Literal

from cluster.config import StrictModel
from services.config import MIN_HARMED_USERS, Metric, RolloutConfig, StepConfig
from services.rollout import wording
from services.rollout.findings import Evidence, Finding
from services.rollout.rates import BOUND_SHARE
from services.rollout.status import Decision, RolloutStatus, Verdict

MIN_CANARY_REQUESTS: Final = 3
"""Fewer never fail a canary, whatever the test says: one user's retries are no evidence."""
MIN_HARMFUL_OF_FEW: Final = 10
"""Harmful answers to fewer users than that after which the step is not waited out."""
MIN_CANARY_VOTES: Final = 10
"""Nor do fewer users by their votes: three who agree beforehand must not be enough where hardly anybody is displeased."""
REASONS: Final[dict[Metric, str]] = {"errors": "error_rate", "ttft": "latency", "tpot": "tpot", "quality": "quality",
                                     "feedback": "feedback"}  # fmt: skip
COPIES_SHARE: Final = 0.25
"""Of the level for errors, what replies to copied requests may spend where a rollout begins with them. They are to find what is
badly broken, which takes few; users have the larger part."""
LARGEST_LOG: Final = 700.0
"""e to this is still a number; larger e-values are shown as it."""


class Outcome(StrictModel):
    """The verdict on one metric at one step."""

    metric: Metric
    verdict: Verdict
    needed: int | None = None
    """Canary requests (or items) until it should pass, if the canary is as good as stable; None where that is not known."""
    wait_s: float | None = None
    """How long these should take, at the step's rate so far."""


def harm_level(config: RolloutConfig) -> float:
    """Each metric's share of alpha: they share it equally, so that all together keep it (Bonferroni)."""
    return config.alpha / len(config.metrics)


def level_of(config: RolloutConfig, finding: Finding) -> float:
    """The level at which that finding fails the canary."""
    # A twentieth of the level pays for what `rates` must assume of stable when nobody is on it any more.
    level = harm_level(config) * (1 - BOUND_SHARE)
    if finding.metric != "errors" or not config.begins_with_copies:
        return level
    return level * (COPIES_SHARE if finding.copies else 1 - COPIES_SHARE)


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
    """The next act. Failure may be found at any time; a pass needs the step's floors and its proofs."""
    assert status.phase == "progressing", f"nothing is to be decided about a rollout that is {status.phase}"
    numbers = measure(evidence)
    if failure := _failure(config, evidence, numbers, alone=status.weight_percent >= 100):
        return failure
    step = config.steps[status.step]
    if status.held:  # until a person ends it, and where users are few harm does not: whoever holds it has to see it
        rise = _rise_of_all(config, step, evidence)
        message = f"held at {status.weight_percent:g} % by a person" + (
            f"; to pass it would need {rise}" if rise else ""
        )
        return Hold("inconclusive", "held", message, numbers)
    # A step begins when its weight is in force: minutes without a controller are no minutes without evidence.
    began_at = max(status.step_started_at, status.weight_applied_at or status.step_started_at)
    elapsed_s = (now - began_at).total_seconds()
    applied = status.weight_applied_at is not None  # until then the evidence is that of the step before
    if (
        missing := _missing(config, step, evidence, elapsed_s)
        if applied
        else "the weight to be in force: its replicas to run, every gateway to apply it"
    ):
        limit_s = _patience_s(config, step, evidence) if applied else config.step_timeout_s
        if elapsed_s >= limit_s:
            message = f"not enough evidence within {limit_s:g} s: {missing}"
            return Rollback("inconclusive", "inconclusive", message, numbers)
        return Hold("inconclusive", "not_enough_evidence", f"waiting for {missing}", numbers)
    return _next(config, status.step, evidence, numbers)


def measure(evidence: Evidence) -> dict[str, float]:
    """The numbers that decisions rest on: counts, shares and e-values."""
    numbers = {
        "stable_requests": float(evidence.stable.num_requests),
        "stable_harmful": float(evidence.stable.num_harmful),
        "canary_requests": float(evidence.canary.num_requests),
        "canary_harmful": float(evidence.canary.num_harmful),
    }
    for finding in evidence.findings:
        if not finding.num_canary:
            continue
        name = "copies" if finding.copies else finding.metric
        numbers[f"{name}_canary_counted"] = float(finding.num_canary)
        numbers[f"{name}_harm_e_value"] = _plain(finding.log_harm)
        if finding.metric == "feedback":
            numbers["feedback_stable_counted"] = float(finding.num_stable)
            numbers |= {"feedback_canary_down": finding.canary, "feedback_stable_down": finding.stable}
        for effect, value in zip(finding.effects, finding.log_pass, strict=True):
            numbers[f"{name}_pass_e_value_{effect:g}"] = _plain(value)
    return numbers


def _plain(logarithm: float) -> float:
    return math.exp(min(logarithm, LARGEST_LOG))


def outcomes(config: RolloutConfig, step: StepConfig, evidence: Evidence, elapsed_s: float) -> tuple[Outcome, ...]:
    """The verdict on each metric: failed, passed (the step's effect is excluded), or inconclusive."""
    rate = evidence.canary.num_requests / elapsed_s if elapsed_s > 0 else 0.0
    return tuple(_outcome(config, step, finding, rate) for finding in evidence.findings if _told_at(step, finding))


def _told_at(step: StepConfig, finding: Finding) -> bool:
    """Of errors there are two streams: by copies while the canary has no users, then by users."""
    return finding.metric != "errors" or finding.copies == (step.weight_percent == 0)


def _outcome(config: RolloutConfig, step: StepConfig, finding: Finding, rate: float) -> Outcome:
    if _fails(config, finding):
        return Outcome(metric=finding.metric, verdict="failed")
    if step.weight_percent >= 100 and finding.metric != "quality":  # stable's past proves nothing of today's load
        return Outcome(metric=finding.metric, verdict="inconclusive")
    place = finding.effects.index(config.effect(finding.metric, step))
    lacking = math.log(1 / config.beta) - finding.log_pass[place]
    if lacking <= 0:
        return Outcome(metric=finding.metric, verdict="passed")
    growth = finding.growth[place]
    if growth <= 0:
        return Outcome(metric=finding.metric, verdict="inconclusive")
    needed = math.ceil(lacking / growth)
    known = rate > 0 and finding.metric not in wording.OF_THEIR_OWN
    return Outcome(
        metric=finding.metric, verdict="inconclusive", needed=needed, wait_s=needed / rate if known else None
    )


def _fails(config: RolloutConfig, finding: Finding) -> bool:
    least = MIN_CANARY_VOTES if finding.metric == "feedback" else MIN_CANARY_REQUESTS
    if finding.num_users is not None and finding.num_users < MIN_HARMED_USERS:
        return False
    return finding.num_canary >= least and finding.log_harm >= -math.log(level_of(config, finding))


def _failure(config: RolloutConfig, evidence: Evidence, numbers: dict[str, float], alone: bool) -> Rollback | None:
    for finding in evidence.findings:
        if _fails(config, finding):
            past = " before, nobody is on it now" if alone and finding.metric == "errors" else ""
            e_value = f"(e = {_plain(finding.log_harm):.3g})"
            message = f"{wording.found(finding)}{past}; {wording.allowed(config, finding.metric)} {e_value}"
            return Rollback("failed", REASONS[finding.metric], message, numbers)
    return None


def _missing(config: RolloutConfig, step: StepConfig, evidence: Evidence, elapsed_s: float) -> str:
    """What the step still lacks to pass, for people; empty when nothing."""
    lacks = []
    if (requests := step.min_requests - evidence.canary.num_counted) > 0:
        lacks.append(f"{requests} more {wording.requests(step)}")
    if evidence.stable.num_requests == 0 and step.weight_percent < 100:
        lacks.append("requests to stable to compare with")
    if elapsed_s < step.min_duration_s:
        lacks.append(f"{math.ceil(step.min_duration_s - elapsed_s)} s more at this step")
    if found := _rise_of_all(config, step, evidence):
        lacks.append(found)
    told = {finding.metric for finding in evidence.findings if finding.num_stable}
    for outcome in outcomes(config, step, evidence, elapsed_s):
        # Models that tell no waits at all cannot be asked to prove them; the others are asked for until they come.
        asked = outcome.metric in step.prove and (outcome.metric in told or outcome.metric not in {"ttft", "tpot"})
        if asked and outcome.verdict != "passed":
            lacks.append(_proof(config, step, outcome))
    return ", ".join(lacks)


def _patience_s(config: RolloutConfig, step: StepConfig, evidence: Evidence) -> float:
    """How long the step may go on without enough evidence. Short where harm is up, one or two users carry it, and the answers that
    count are too few for the step: more requests of these users settle nothing, and they meet harm until its end. Where others
    are served well, theirs decide, as long as the step lasts."""
    carried_by = next((f.num_users for f in evidence.findings if f.metric == "errors" and not f.copies), None) or 0
    few = 0 < carried_by < MIN_HARMED_USERS and evidence.canary.num_counted < step.min_requests
    harmed = evidence.canary.num_harmful >= MIN_HARMFUL_OF_FEW and bool(_rise_of_all(config, step, evidence))
    if step.weight_percent > 0 and few and harmed:
        return min(config.few_users_timeout_s, config.step_timeout_s)
    return config.step_timeout_s


def _rise_of_all(config: RolloutConfig, step: StepConfig, evidence: Evidence) -> str:
    """Harmful answers over all requests where they are up by the effect, whatever is proven, or asked to be.

    Two failures of two are no proof of harm, and no reason to bring it more users. And a user who gets no good answer at all counts
    once: a canary that fails all requests of one back end would pass on the others'. When everybody is on the canary it is held
    against what stable answered before: two keys that fail four times in five would else promote it.
    """
    past = step.weight_percent >= 100
    stable, canary = evidence.stable_before if past else evidence.stable, evidence.canary
    if not (stable.num_requests and canary.num_requests):
        return ""
    shares = [side.num_harmful / side.num_requests for side in (stable, canary)]
    if shares[1] - shares[0] < config.effect("errors", step):
        return ""
    return (
        f"fewer harmful answers: {shares[1]:.2%} of all canary requests, stable {shares[0]:.2%}{' before' if past else ''}; "
        "too few requests or users carry them to call it the canary's fault"
    )


def _proof(config: RolloutConfig, step: StepConfig, outcome: Outcome) -> str:
    what, unit = wording.proof(outcome.metric, config.effect(outcome.metric, step), step)
    about = f"about {outcome.needed} more {unit}" if outcome.needed else f"more {unit}"
    return f"{what} ({about}" + (f", {outcome.wait_s:.0f} s)" if outcome.wait_s else ")")


def _next(config: RolloutConfig, step: int, evidence: Evidence, numbers: dict[str, float]) -> Promote | SetWeight:
    answers = wording.answers(copies=config.steps[step].weight_percent == 0)
    found = (
        f"{evidence.canary.num_harmful} of {evidence.canary.num_requests} {answers} harmful, stable "
        f"{evidence.stable.num_harmful} of {evidence.stable.num_requests}"
    )
    proven = ", ".join(o.metric for o in outcomes(config, config.steps[step], evidence, 0.0) if o.verdict == "passed")
    found += f"; proven: {proven or 'nothing'}"
    if step + 1 == len(config.steps):
        return Promote("passed", "all_steps_passed", f"last step passed ({found}): promote", numbers)
    weight = config.steps[step + 1].weight_percent
    return SetWeight("passed", "step_passed", f"go to {weight:g} % ({found})", numbers, step + 1, weight)


def as_decision(action: Action, status: RolloutStatus, now: datetime, look: int = 0) -> Decision:
    """The record of `action`, decided by the analysis after that look."""
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
        look=look,
        at=now,
    )
