"""The policy as a table of situations, and what must hold in all of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.config import RolloutConfig, StepConfig
from services.rollout.policy import Action, Counts, Evidence, Hold, Promote, Rollback, SetWeight, as_decision, decide
from services.rollout.status import Decision, RolloutStatus

START = datetime(2026, 1, 1, tzinfo=UTC)
CONFIG = RolloutConfig(
    steps=(
        StepConfig(weight_percent=1, min_requests=20, min_duration_s=30),
        StepConfig(weight_percent=10, min_requests=40, min_duration_s=30),
    ),
    step_timeout_s=600,
)


def status(step: int = 0, held: bool = False) -> RolloutStatus:
    first = Decision(action="set_weight", verdict="inconclusive", reason="started", message="", at=START)
    return RolloutStatus(
        id="r",
        name="m",
        candidate="m-2",
        stable="m-1",
        config=CONFIG,
        step=step,
        weight_percent=CONFIG.steps[step].weight_percent,
        held=held,
        started_at=START,
        step_started_at=START,
        decisions=(first,),
    )


def side(requests: int, harmful: int = 0, wait_s: float | None = 0.1) -> Counts:
    waits_s = () if wait_s is None else (wait_s,) * (requests - harmful)
    return Counts(num_requests=requests, num_harmful=harmful, waits_s=waits_s)


def judge(canary: Counts, stable: Counts, after_s: float = 60, step: int = 0, held: bool = False) -> Action:
    return decide(
        CONFIG, status(step, held), Evidence(stable=stable, canary=canary), START + timedelta(seconds=after_s)
    )


@pytest.mark.parametrize(
    ("situation", "action", "reason"),
    [
        (judge(side(20), side(200)), SetWeight, "step_passed"),
        (judge(side(40), side(200), step=1), Promote, "all_steps_passed"),
        (judge(side(19), side(200)), Hold, "not_enough_evidence"),
        (judge(side(20), side(200), after_s=29), Hold, "not_enough_evidence"),
        (judge(side(20), side(0)), Hold, "not_enough_evidence"),
        (judge(side(0), side(0), after_s=0), Hold, "not_enough_evidence"),
        (judge(side(0), side(200), after_s=600), Rollback, "inconclusive"),
        (judge(side(20), side(0), after_s=600), Rollback, "inconclusive"),
        (judge(side(20), side(200), after_s=600), SetWeight, "step_passed"),
        (judge(side(3, harmful=3), side(200), after_s=1), Rollback, "error_rate"),
        (judge(side(2, harmful=2), side(200)), Hold, "not_enough_evidence"),
        (judge(side(20, harmful=1), side(200)), SetWeight, "step_passed"),
        (judge(side(20, harmful=8), side(200, harmful=80)), SetWeight, "step_passed"),
        (judge(side(20, harmful=12), side(200, harmful=20)), Rollback, "error_rate"),
        (judge(side(40, harmful=40), side(0)), Hold, "not_enough_evidence"),
        (judge(side(20, wait_s=1.0), side(200, wait_s=0.3)), Rollback, "latency"),
        (judge(side(20, wait_s=1.0), side(200, wait_s=0.9)), SetWeight, "step_passed"),
        (judge(side(20, wait_s=0.24), side(200, wait_s=0.01)), SetWeight, "step_passed"),
        (judge(side(2, wait_s=9.0), side(200, wait_s=0.1)), Hold, "not_enough_evidence"),
        (judge(side(20, wait_s=None), side(200, wait_s=None)), SetWeight, "step_passed"),
        (judge(side(20), side(200), held=True), Hold, "held"),
        (judge(side(0), side(200), held=True, after_s=6000), Hold, "held"),
        (judge(side(20, harmful=20), side(200), held=True), Rollback, "error_rate"),
    ],
)
def test_situations(situation: Action, action: type[Action], reason: str) -> None:
    assert (type(situation), situation.reason) == (action, reason)
    assert situation.message


def test_the_next_step_is_named() -> None:
    passed = judge(side(20), side(200))
    assert isinstance(passed, SetWeight)
    assert (passed.step, passed.weight_percent, passed.verdict) == (1, 10, "passed")


def test_what_is_missing_is_said() -> None:
    assert judge(side(5), side(0), after_s=10).message == (
        "waiting for 15 more canary requests, requests to stable to compare with, 20 s more at this step"
    )


@pytest.mark.parametrize(("step", "weight"), [(0, 10.0), (1, 100.0)])
def test_a_decision_keeps_the_numbers_it_rested_on(step: int, weight: float) -> None:
    action = judge(side(40, harmful=1), side(200), step=step)
    decision = as_decision(action, status(step), START)
    assert decision.numbers["canary_requests"] == 40
    assert decision.numbers["canary_harmful"] == 1
    assert 0 < decision.numbers["error_p_value"] <= 1
    assert (decision.who, decision.weight_percent) == ("analysis", weight)


def test_a_rollout_that_ends_is_not_judged() -> None:
    with pytest.raises(AssertionError):
        decide(CONFIG, status().replace(phase="promoting"), Evidence(), START)


WAITS_S = st.lists(st.floats(0.01, 3), max_size=30).map(tuple)


@st.composite
def counts(draw: st.DrawFn) -> Counts:
    requests = draw(st.integers(0, 60))
    return Counts(num_requests=requests, num_harmful=draw(st.integers(0, requests)), waits_s=draw(WAITS_S))


@given(counts(), counts(), st.integers(1, 20), st.booleans(), st.floats(0, 700))
def test_more_canary_errors_never_turn_a_rollback_into_anything_else(
    canary: Counts, stable: Counts, more: int, converted: bool, after_s: float
) -> None:
    before = judge(canary, stable, after_s)
    harmful = min(canary.num_harmful + more, canary.num_requests) if converted else canary.num_harmful + more
    requests = canary.num_requests if converted else canary.num_requests + more
    worse = canary.replace(num_requests=requests, num_harmful=harmful)
    after = judge(worse, stable, after_s)
    if isinstance(before, Rollback) and before.verdict == "failed":
        assert isinstance(after, Rollback)
    if isinstance(after, SetWeight | Promote) and not converted:
        assert isinstance(judge(canary.replace(num_requests=requests), stable, after_s), SetWeight | Promote)


@given(counts(), counts(), st.floats(0, 700), st.floats(1, 10))
def test_a_slower_canary_never_turns_a_rollback_into_anything_else(
    canary: Counts, stable: Counts, after_s: float, factor: float
) -> None:
    before = judge(canary, stable, after_s)
    slower = canary.replace(waits_s=tuple(wait_s * factor for wait_s in canary.waits_s))
    if isinstance(before, Rollback):
        assert isinstance(judge(slower, stable, after_s), Rollback)


@given(counts(), counts(), st.floats(0, 700))
def test_nothing_passes_below_its_floors(canary: Counts, stable: Counts, after_s: float) -> None:
    if isinstance(judge(canary, stable, after_s), SetWeight | Promote):
        assert canary.num_requests >= 20
        assert stable.num_requests > 0
        assert after_s >= 30
