"""How many replicas: enough for each signal, monotone, and still when the load is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.config import EngineConfig, ReplicasConfig
from services.serving.autoscaling import SLACK, Capacity, Load, Policy, needed, replicas
from services.serving.engine import autoscaling

CAPACITY = Capacity(ongoing=16, slots=64, cache=0.8)
AMOUNT = st.floats(0, 500)
LOAD = st.builds(Load, AMOUNT, AMOUNT, st.floats(0, 1))
LOADS = st.lists(LOAD, max_size=6)
COUNT = st.integers(0, 50)


@pytest.mark.parametrize(
    ("ongoing", "loads", "demand"),
    [
        (0, [], 0),
        (40, [], 2.5),
        (16, [Load(16, 0, 0.4)], 1),
        (16, [Load(8, 8, 0.8)], 2),  # half of them wait for cache: as much again is needed
        (16, [Load(64, 64, 0.1)], 2),  # several choices a request: the slots are what is short
        (2, [Load(0, 2, 0.0)], 0.125),  # queued a moment ago
    ],
)
def test_the_shortest_of_requests_slots_and_cache_counts(ongoing: float, loads: list[Load], demand: float) -> None:
    assert needed(ongoing, loads, CAPACITY) == pytest.approx(demand)


@given(AMOUNT, LOADS, LOAD, AMOUNT, COUNT)
def test_more_load_never_asks_for_fewer(
    ongoing: float, loads: list[Load], one: Load, more: float, present: int
) -> None:
    def asked(ongoing: float, last: Load) -> int:
        return replicas(needed(ongoing, [*loads, last], CAPACITY), present, 0, 1000)

    base = asked(ongoing, one)
    assert asked(ongoing + more, one) >= base
    assert asked(ongoing, Load(one.running, one.waiting + more, one.cache)) >= base
    assert asked(ongoing, Load(one.running, one.waiting, min(1.0, one.cache + more / 500))) >= base


@given(st.floats(0, 100), COUNT)
def test_a_load_that_stays_is_answered_once(demand: float, present: int) -> None:
    once = replicas(demand, present, 0, 1000)
    assert replicas(demand, once, 0, 1000) == once
    assert once >= demand - 1e-6


@given(st.floats(0.05, 100), st.lists(st.floats(SLACK + 0.001, 1), min_size=1, max_size=20))
def test_a_load_that_wavers_by_less_than_the_slack_changes_nothing(peak: float, shares: list[float]) -> None:
    present = replicas(peak, 0, 0, 1000)
    for share in shares:
        assert replicas(peak * share, present, 0, 1000) == present


@given(st.floats(0, 100), COUNT, st.integers(0, 10), st.integers(0, 10))
def test_the_answer_keeps_its_bounds(demand: float, present: int, lowest: int, more: int) -> None:
    assert lowest <= replicas(demand, present, lowest, lowest + more) <= lowest + more


@given(LOADS, st.integers(1, 6))
def test_what_is_spread_over_more_replicas_is_the_same_demand(loads: list[Load], parts: int) -> None:
    """Else a replica more would change the answer that asked for it."""
    spread = [
        Load(load.running / parts, load.waiting / parts, load.cache / parts) for load in loads for _ in range(parts)
    ]
    full = all(load.running / parts >= 1 for load in loads)
    if full:
        assert needed(0, spread, CAPACITY) == pytest.approx(needed(0, loads, CAPACITY))


def context(present: int, ongoing: float = 0.0, *, floor: tuple[float, ...] = (), rest: tuple[float, ...] = ()) -> Any:
    """What Serve hands the policy: of each replica the values in the look-back, oldest first."""
    series = {"floor": floor, "rest": rest}
    raw = {name: {"a": [SimpleNamespace(value=v) for v in values]} for name, values in series.items()}
    return SimpleNamespace(
        target_num_replicas=present,
        total_num_requests=ongoing,
        aggregated_metrics={"waiting": {"a": 0.0}},
        raw_metrics=raw,
    )


@pytest.fixture
def policy() -> Policy:
    return Policy(lowest=2, highest=5, ongoing=16, slots=64, cache=0.8)


def test_a_floor_holds_from_its_first_report_and_no_longer_than_its_last(policy: Policy) -> None:
    assert policy(context(2, floor=(0, 0, 4)))[0] == 4
    assert policy(context(4, floor=(4, 4, 0)))[0] == 2
    assert policy(context(2, floor=(9,)))[0] == 5


def test_who_rests_goes_below_the_least_number(policy: Policy) -> None:
    assert policy(context(2, ongoing=100, rest=(0, 1)))[0] == 1
    assert policy(context(1, rest=(1, 0)))[0] == 2


def test_before_any_report_the_requests_alone_count(policy: Policy) -> None:
    nothing = SimpleNamespace(target_num_replicas=2, total_num_requests=48, aggregated_metrics=None, raw_metrics=None)
    assert policy(nothing)[0] == 3


def test_serve_can_carry_the_policy_to_its_controller() -> None:
    """Pickled by value, as Serve does it: what it needs must be in its own module."""
    import cloudpickle

    from services.serving import autoscaling as module

    cloudpickle.register_pickle_by_value(module)
    try:
        pickled = cloudpickle.dumps(Policy)
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    assert b"services.config" not in pickled
    assert cloudpickle.loads(pickled)(lowest=0, highest=3, ongoing=1, slots=1, cache=1)(context(1, 2.0))[0] == 2


def test_serve_takes_the_settings_and_asks_the_policy() -> None:
    """Through Serve's own classes, delays and bounds of its own included."""
    from ray.serve._private.autoscaling_state import _resolve_policy_callable
    from ray.serve.autoscaling_policy import _apply_autoscaling_config
    from ray.serve.config import AutoscalingConfig, AutoscalingContext

    chosen = ReplicasConfig(min=2, max=4, upscale_delay_s=0, downscale_delay_s=0, look_back_s=3)
    config = AutoscalingConfig(**autoscaling(EngineConfig(), chosen))
    ask = _apply_autoscaling_config(_resolve_policy_callable(config.policy))

    def asked(present: int, ongoing: float, cache: float = 0.0, **orders: float) -> int:
        raw = {name: {"a": [SimpleNamespace(value=value)]} for name, value in orders.items()}
        told: Any = {"deployment_id": None, "deployment_name": "model", "app_name": "rev-m-1", "running_replicas": []}
        told |= {"capacity_adjusted_min_replicas": 1, "capacity_adjusted_max_replicas": 4, "policy_state": {}}
        told |= {"last_scale_up_time": None, "last_scale_down_time": None, "current_time": 0.0, "config": config}
        context = AutoscalingContext(
            current_num_replicas=present,
            target_num_replicas=present,
            total_num_requests=ongoing,
            total_queued_requests=0.0,
            aggregated_metrics=lambda: {"cache": {"a": cache}},
            raw_metrics=lambda: raw,
            **told,
        )
        return ask(context)[0]

    assert asked(2, 0) == 2
    assert asked(2, 33) == 3
    assert asked(2, 0, cache=2.5) == 4
    assert asked(2, 0, floor=4) == 4
    assert asked(2, 0, rest=1) == 1
    assert (config.min_replicas, config.metrics_interval_s) == (1, 1)
