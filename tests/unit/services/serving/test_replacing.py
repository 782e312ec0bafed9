"""A gateway that is replaced while it still answers: when the deployment is done, and how long the old one may stay."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from services.config import AdmissionConfig, ServingConfig
from services.serving import app, readiness
from services.serving.door import BODY_TIMEOUT_S, longest_stay_s

SERVING = ServingConfig(num_gateway_replicas=2)


def overview(status: str = "DEPLOYING", **states: int) -> SimpleNamespace:
    deployments = {app.GATEWAY: SimpleNamespace(replica_states=states, message="")}
    return SimpleNamespace(status=status, message="", deployments=deployments)


@pytest.mark.parametrize(
    ("states", "says", "done"),
    [
        ({"RUNNING": 2, "STOPPING": 1}, True, True),
        ({"RUNNING": 2, "STOPPING": 2, "STARTING": 0}, True, True),
        ({"RUNNING": 2, "STOPPING": 1}, False, False),  # a new one that failed is stopped: the old ones run
        ({"RUNNING": 2, "STOPPING": 1, "STARTING": 1}, True, False),
        ({"RUNNING": 3, "STOPPING": 1}, True, False),
        ({"RUNNING": 2}, True, False),  # the old ones, before the first new one starts
    ],
)
def test_old_gateways_that_end_their_answers_keep_no_deployment_waiting(
    monkeypatch: pytest.MonkeyPatch, states: dict[str, int], says: bool, done: bool
) -> None:
    monkeypatch.setattr(app, "_says", lambda *_: says)
    assert app._replaced(overview(**states), SERVING, "digest") is done


def test_two_looks_in_a_row_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([True, False, True, True])
    seen: list[bool] = []

    def enough(_: object) -> bool:
        seen.append(next(looks))
        return seen[-1]

    monkeypatch.setattr(readiness, "POLL_S", 0.0)
    serve = SimpleNamespace(status=lambda: SimpleNamespace(applications={"gateway": overview()}))
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(serve=serve))  # whose import takes six seconds
    readiness.wait_running("gateway", 10, enough=enough)
    assert seen == [True, False, True, True]


@pytest.mark.parametrize("timeout_s", [5.0, 600.0, 7200.0])
def test_a_replaced_gateway_stays_for_the_longest_answer(timeout_s: float) -> None:
    assert longest_stay_s(AdmissionConfig(timeout_s=timeout_s)) == timeout_s + BODY_TIMEOUT_S
