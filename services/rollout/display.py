"""A rollout for people: its decisions as lines, its plan as a table. Yields what a rich console prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from rich.table import Table

from services.config import Metric, RolloutConfig
from services.rollout.status import Decision, RolloutStatus

if TYPE_CHECKING:
    from services.rollout.plan import Proof, StepPlan
    from services.rollout.replay import Replayed


UNITS: Final[dict[Metric, str]] = {"quality": " items", "feedback": " votes"}
"""Of what a proof takes, where it is not canary requests."""


def decision_line(decision: Decision) -> str:
    """When, the weight from then on, the verdict and why."""
    return f"{decision.at:%H:%M:%S}  {decision.weight_percent:5g} %  {decision.verdict:<12} {decision.message}"


def rollout(status: RolloutStatus) -> Iterator[str]:
    """The rollout and every decision about it."""
    old = " (written by another version of serinus: what this one can read of it)" if status.lossy else ""
    yield f"rollout {status.id}: {status.candidate} against {status.stable}, {status.phase}{old}"
    for decision in status.decisions:
        yield "  " + decision_line(decision)


def replayed(found: Replayed) -> Iterator[str]:
    """A look as it was decided, and as it is decided now where that differs."""
    verdict = "same" if found.same else "OTHER"
    if found.again is None:
        verdict = "by hand" if found.recorded and found.recorded.reason == "manual" else "from elsewhere"
    yield f"look {found.look:>6}  {verdict:<14}" + (decision_line(found.recorded) if found.recorded else "held")
    if not found.same and found.again:
        yield f"{'':<13}now           {decision_line(found.again)}"


def plan(config: RolloutConfig, steps: tuple[StepPlan, ...]) -> Iterator[Table | str]:
    """How long each step takes and what it finds, and what these numbers mean."""
    table = Table(
        "step", "canary/s", "metric", "effect", "rolled back after", "passes after", box=None, header_style="bold"
    )
    for step in steps:
        _add_step(table, config, step)
    yield table
    whole = _duration(sum(step.duration_s for step in steps))
    yield f"about {whole} in all for a canary as good as stable. Canary requests, in about half of all rollouts;"
    yield f"false rollbacks {config.alpha:.2g}, missed effects {config.beta:.2g} at most. docs/rollouts.md explains it"


def _add_step(table: Table, config: RolloutConfig, step: StepPlan) -> None:
    first = (f"{step.weight_percent:g} %" if step.weight_percent else "copies", f"{step.canary_per_s:.3g}")
    for proof in step.proofs:
        unit = UNITS.get(proof.metric, "")
        passes = f"{proof.requests_to_pass}{unit}" if proof.requests_to_pass else "not asked"
        table.add_row(*first, proof.metric, _effect(proof), f"{proof.requests_to_fail}{unit}", passes)
        first = ("", "")
    late = "" if step.fits else f" (longer than step_timeout_s: {config.step_timeout_s:g} s)"
    table.add_row("", "", "[bold]step[/]", "", "", f"[bold]{_duration(step.duration_s)}[/]{late}")


def _effect(proof: Proof) -> str:
    return f"{proof.effect:g} x" if proof.metric == "ttft" else f"{proof.effect * 100:g} points"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
