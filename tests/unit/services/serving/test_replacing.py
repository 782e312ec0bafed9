"""A gateway that is replaced while it still answers: when the deployment is done, and how long the old one may stay."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from cluster.code_version import code_version
from cluster.errors import ResourceError
from services.config import AdmissionConfig, ServingConfig
from services.contract import GATEWAY
from services.serving import app, readiness
from services.serving.door import BODY_TIMEOUT_S, longest_stay_s

SERVING = ServingConfig(num_gateway_replicas=2)


def overview(status: str = "DEPLOYING", **states: int) -> SimpleNamespace:
    deployments = {GATEWAY: SimpleNamespace(replica_states=states, message="")}
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
    monkeypatch.setattr(app, "says", lambda *_: says)
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


def test_a_gateway_of_another_serinus_is_replaced_though_the_recipe_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = app._gateway_settings("m", SERVING, "file:///store")
    assert app._gateway_settings("m", SERVING, "file:///store") == before
    monkeypatch.setattr(app, "code_version", lambda: "9.0+0123456789")
    assert app._gateway_settings("m", SERVING, "file:///store") != before


def test_a_machine_on_which_another_serinus_is_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    told = [(code_version(), "a"), ("0.0.9+0123456789", "b"), ("0.0.9+0123456789", "b")]
    handle = SimpleNamespace(broadcast=lambda method: SimpleNamespace(results=lambda timeout_s: list(told)))
    serve = SimpleNamespace(get_deployment_handle=lambda deployment, application: handle)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(serve=serve))
    with pytest.raises(ResourceError, match=r"gateway: b has serinus 0\.0\.9\+0123456789; this command is"):
        readiness.check_code("gateway")
    told[1:] = []
    readiness.check_code("gateway")


@pytest.mark.parametrize("timeout_s", [5.0, 600.0, 7200.0])
def test_a_replaced_gateway_stays_for_the_longest_answer(timeout_s: float) -> None:
    assert longest_stay_s(AdmissionConfig(timeout_s=timeout_s)) == timeout_s + BODY_TIMEOUT_S
