"""What the verdict says for people: what was found, what is allowed, what is lacking. Pure."""

from __future__ import annotations

from services.config import Metric, RolloutConfig, StepConfig
from services.rollout.findings import Finding

OF_THEIR_OWN: frozenset[Metric] = frozenset({"quality", "feedback"})
"""Metrics whose evidence comes on a schedule of its own: probes', or as users please."""


def found(finding: Finding) -> str:
    """The numbers of a metric that failed."""
    match finding.metric:
        case "errors":
            kinds = f" ({', '.join(f'{number} {kind}' for kind, number in finding.harms)})" if finding.harms else ""
            return (
                f"{finding.canary:.2%} of {finding.num_canary} {answers(finding.copies)} harmful{kinds}, "
                f"stable {finding.stable:.2%} of {finding.num_stable}"
            )
        case "quality":
            return f"canary scores {finding.canary * 100:+.1f} points on {finding.num_canary} items"
        case "feedback":
            return (
                f"{finding.canary:.1%} of {finding.num_canary} users who voted on the canary gave thumbs down, "
                f"stable {finding.stable:.1%} of {finding.num_stable}"
            )
        case _:
            late = f"{finding.canary:.1%} of {finding.num_canary} canary answers late"
            return f"{finding.metric}: {late}, stable {finding.stable:.1%}"


def allowed(config: RolloutConfig, metric: Metric) -> str:
    """The margin."""
    match metric:
        case "errors":
            return f"{config.max_error_increase_percent:g} points more are allowed"
        case "quality":
            return f"{config.max_quality_drop_percent:g} points less are allowed"
        case "feedback":
            return f"{config.max_down_increase_percent:g} points more are allowed"
        case _:
            return f"{config.max_latency_ratio:g} times stable's waits are allowed"


def proof(metric: Metric, effect: float, step: StepConfig) -> tuple[str, str]:
    """What a step is to prove, and the unit of what it takes."""
    match metric:
        case "errors":
            return f"proof that errors are not up by {effect * 100:g} points", requests(step)
        case "quality":
            return f"proof that scores are not down by {effect * 100:g} points", "items"
        case "feedback":
            return f"proof that thumbs down are not up by {effect * 100:g} points", "users' votes on the canary"
        case _:
            return f"proof that {metric} is not {effect:g} times stable's", requests(step)


def answers(copies: bool) -> str:
    """What the canary is judged by."""
    return "replies to copied requests" if copies else "canary answers"


def requests(step: StepConfig) -> str:
    """What a step asks for."""
    return "canary requests" if step.weight_percent else "copied requests"
