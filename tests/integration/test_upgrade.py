"""Another serinus in the place of the one that runs: gateways and controller, while requests and a rollout are under way."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from cluster.errors import InputError, UserError
from cluster.storage import LocalStorage
from services import audit
from services.commands import canary
from services.config import ServingConfig
from services.control.orders import ControllerOrders
from services.rollout import controller
from services.rollout.actor import Controller
from services.rollout.status import status_key
from services.rollout.waiting import Waiting, queue_up
from tests.chaos.serving_world import NAME, ONE, OTHER
from tests.integration.clients import Clients
from tests.integration.gateway_world import eventually, free_port
from tests.integration.rollout_world import CONFIG, Deployed
from tests.integration.upgrade_world import Site

pytestmark = pytest.mark.integration
NUMBER = itertools.count()
OLDER = "0.0.9+0123456789"


class Older(Controller):
    """Says that it is of another version; all else of it is the real one."""

    def code(self) -> str:
        return OLDER


@pytest.fixture
def older(ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployed]:
    """Deployed with an older version: its controller runs."""
    with monkeypatch.context() as before:
        before.setattr(controller, "Controller", Older)
        world = Deployed(f"older{next(NUMBER)}", tmp_path)
    yield world
    world.actor = controller.ensure_controller(world.name, world.storage.uri)
    world.close()


def test_a_rollout_goes_on_under_a_controller_of_another_version(older: Deployed) -> None:
    rollout = older.start()
    older.wait(lambda status: status.step == 1)
    before = older.controller_pid()
    controller.check_renewal(older.storage, older.name)
    actor = controller.renew_controller(older.name, older.storage.uri, older.applications)
    assert older.status.phase == "progressing" or older.status.ended
    older.actor = actor
    assert older.controller_pid() != before
    assert controller.renew_controller(older.name, older.storage.uri, older.applications) == actor
    status = older.wait(lambda s: s.ended)
    assert (status.id, status.phase) == (rollout, "promoted")
    assert [d.weight_percent for d in status.decisions] == [20, 50, 100]


def test_a_rollout_that_this_version_cannot_go_on_with_keeps_its_controller(older: Deployed) -> None:
    rollout = older.start()
    blob = older.storage.read(status_key(older.name, rollout))
    assert blob is not None
    of_another = blob.content.replace(b'"keep_revisions"', b'"keeps_revisions"')
    older.storage.write(status_key(older.name, rollout), of_another)
    with pytest.raises(InputError, match="begun by another version"):
        controller.check_renewal(older.storage, older.name)


def test_of_two_deployments_at_once_the_later_one_leaves_the_controller_of_the_earlier_one(
    older: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced = controller._found(controller.actor_name(older.name))
    older.actor = controller.renew_controller(older.name, older.storage.uri, older.applications)
    before, real = older.controller_pid(), controller._controller
    found = iter([replaced])  # what the later one saw before the earlier one ended it, and what that said then
    monkeypatch.setattr(controller, "_controller", lambda *given: next(found, None) or real(*given))
    told = controller._code
    monkeypatch.setattr(controller, "_code", lambda name, actor: OLDER if actor == replaced else told(name, actor))
    older.actor = controller.renew_controller(older.name, older.storage.uri, older.applications)
    assert older.controller_pid() == before


@pytest.mark.parametrize("order", ["control API", "command"])
def test_a_controller_that_an_order_starts_can_load_candidates(
    older: Deployed, order: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = controller.actor_name(older.name)
    controller._end(older.name, name, controller._found(name))
    assert controller._found(name) is None
    if order == "command":
        monkeypatch.setattr(canary, "in_public_cluster", nullcontext)
        app = typer.Typer()
        served = SimpleNamespace(name=older.name, storage=older.storage.uri)
        canary.register_acts(app, lambda path: served, Console())  # type: ignore[arg-type, return-value]
        done = CliRunner().invoke(app, ["promote"]).exception
        assert isinstance(done, UserError)
    else:
        with pytest.raises(UserError, match="no rollout is in progress"):
            ControllerOrders(older.storage, older.name).promote("ann", "20260101-000000-000000")
    asked = Waiting(
        revision=older.candidate,
        config=CONFIG,
        serving=ServingConfig(),
        keep_revisions=1,
        who="ann",
        at=datetime.now(UTC),
    )
    queue_up(older.storage, older.name, asked, always=True)
    controller.wake(older.storage, older.name)

    def not_started() -> list[str]:
        lines = [stored.entry.line for stored in audit.entries(older.storage, older.name)]
        return [line.message for line in lines if line.kind == "not_started"]

    eventually(lambda: bool(not_started()), 60)
    assert "was not told how to load" not in not_started()[0], "it tried"


@pytest.fixture(params=["direct", "proxy"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """Deployed by an installation of its own, with a rollout that takes longer than a deployment on a busy machine."""
    step = {"min_requests": 30, "min_duration_s": 60, "prove": "none"}
    recipe = {
        "name": NAME,
        "storage": str(tmp_path / "storage"),
        "data": {"sources": [{"path": "documents"}]},
        "model": {"source": "model"},
        "train": {"gpus_per_worker": 0},
        "evaluate": {"tasks": [{"name": "perplexity", "kind": "perplexity"}]},
        "serve": {"port": free_port(), "num_gateway_replicas": 2, "entry": request.param},
        "rollout": {
            "steps": [{"weight_percent": 20, **step}, {"weight_percent": 50, **step}],
            "interval_s": 0.5,
            "drain_s": 3,
            "latency_floor_s": 20,  # gateways that start take both cores: here errors alone decide
            "tpot_floor_s": 20,
        },
    }
    site = Site(tmp_path, recipe)
    site.run("serinus", "up", "--profile", "tiny")
    yield site
    site.run("serinus", "down")


@pytest.mark.long
def test_serinus_deploy_after_an_upgrade_replaces_gateways_and_controller_under_load(site: Site) -> None:
    url = site.act("serve")
    site.run("serinus", "deploy", str(site.recipe))
    eventually(lambda: httpx.get(f"{url}/models").status_code == 200)
    storage, rollout = LocalStorage(site.recipe.parent / "storage"), site.act("roll_out")
    before = site.act("running").split()
    began = time.monotonic()
    with Clients(url, NAME, num=6, pause_s=0.1) as clients, Clients(url, NAME, num=1, prompt="slow") as patient:
        clients.wait_for(20)
        site.upgrade("services/serving/gateway.py", '"owned_by": "serinus"', '"owned_by": "serinus anew"')
        site.run("serinus", "deploy", str(site.recipe))
        took_s = time.monotonic() - began
        owners = {httpx.get(f"{url}/models").json()["data"][0]["owned_by"] for _ in range(20)}
        after = site.act("running").split()
        during = controller.status(storage, NAME)
        eventually(lambda: bool((status := controller.status(storage, NAME)) and status.ended), 240)
    status = controller.status(storage, NAME)
    seen = clients.seen + patient.seen
    failed = [one for one in seen if one.problem]
    print(
        f"deployed anew in {took_s:.0f} s; {len(seen)} requests, {len(patient.seen)} of half a minute, {len(failed)} failed"
    )
    assert failed == []
    assert {one.revision for one in seen} == {ONE, OTHER}
    assert owners == {"serinus anew"}
    assert before[0] != after[0]
    assert before[1] != after[1]
    assert during is not None
    assert not during.ended
    assert status is not None
    assert (status.id, status.phase) == (rollout, "promoted")
    assert [decision.weight_percent for decision in status.decisions] == [20, 50, 100]
