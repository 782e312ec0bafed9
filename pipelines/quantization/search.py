"""Quantize until it passes: which scheme next, and the search in words. Pure, nothing heavy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cluster.artifacts import Check, GateReport, SchemeAttempt, SchemeSearch, SliceFinding
from pipelines.task_config import LOWER_IS_BETTER

MARKS = {"passed": "passed", "failed": "FAILED", "inconclusive": "INCONCLUSIVE"}
"""As in the gate's own words."""


@dataclass(frozen=True)
class Try:
    index: int


@dataclass(frozen=True)
class Choose:
    index: int


@dataclass(frozen=True)
class GiveUp:
    reason: str


Step = Try | Choose | GiveUp


@dataclass(frozen=True)
class Tried:
    """What is known of a scheme. `lost_before`: musts missed that compare models before quantization."""

    attempt: SchemeAttempt
    lost_before: tuple[str, ...] = ()


def next_step(num_schemes: int, tried: Sequence[Tried]) -> Step:
    """What follows from the schemes tried so far, which are the first of the list in its order."""
    if tried and tried[-1].attempt.outcome == "passed":
        return Choose(len(tried) - 1)
    if tried and tried[-1].lost_before:
        return GiveUp(f"no scheme can mend {', '.join(tried[-1].lost_before)}: it is the training's")
    if len(tried) < num_schemes:
        return Try(len(tried))
    if all(one.attempt.outcome == "skipped" for one in tried):
        return GiveUp("none of the schemes can be served on this hardware")
    return GiveUp("every scheme that can be served here was refused")


def judged(scheme: str, gate: GateReport, attempt: SchemeAttempt) -> Tried:
    """A scheme that was quantized and evaluated, by its gate.

    Args:
        attempt: with its digests, bytes and time.
    """
    return Tried(
        attempt.replace(
            scheme=scheme,
            outcome="passed" if gate.passed else "refused",
            reason="" if gate.passed else "\n".join(check.message for check in gate.missed),
            gate=gate.digest,
            slices=tuple(map(_slice, gate.checks)),
        ),
        () if gate.passed else tuple(check.name for check in gate.missed if check.name.endswith(": trained vs base")),
    )


def _slice(check: Check) -> SliceFinding:
    over, under = (check.old, check.new) if check.metric in LOWER_IS_BETTER else (check.new, check.old)
    return SliceFinding(
        name=check.name,
        metric=check.metric,
        priority=check.priority,
        outcome=check.outcome,
        decided_by=check.decided_by,
        old=check.old,
        new=check.new,
        recovery_percent=100 * over / under if under else 100.0,
    )


def lines(search: SchemeSearch) -> Iterator[str]:
    """The search, for people."""
    yield f"schemes in the order they were tried: {search.chosen or 'none'} is taken" + (
        f" ({search.why})" if search.why else ""
    )
    for attempt in search.attempts:
        yield from (f"  {line}" for line in _attempt(attempt, search.num_weight_bytes_before))


def _attempt(attempt: SchemeAttempt, num_bytes_before: int) -> Iterator[str]:
    if attempt.outcome == "skipped":
        yield f"{attempt.scheme}: skipped, {attempt.reason}"
        return
    size = f"{attempt.num_weight_bytes / 1e6:.0f} MB"
    if num_bytes_before:
        size += f" of {num_bytes_before / 1e6:.0f} ({attempt.num_weight_bytes / num_bytes_before:.0%})"
    if attempt.num_cache_bytes_per_token:
        size += f", {attempt.num_cache_bytes_per_token:,} bytes of KV cache a token"
    outcome = "REFUSED" if attempt.outcome == "refused" else attempt.outcome
    yield f"{attempt.scheme}: {outcome}, {size}, took {attempt.took_s:.0f} s"
    if attempt.speed:
        yield f"  {attempt.speed.summary}"
    for found in attempt.slices:
        figures = f"{found.metric} {found.old:.4g} to {found.new:.4g}, keeps {found.recovery_percent:.1f} %"
        yield f"  {MARKS[found.outcome]:<13}{found.priority:<7}{found.decided_by:<19}{found.name}: {figures}"
    yield from (f"  refused for {reason}" for reason in attempt.reason.splitlines())
