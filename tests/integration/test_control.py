"""The control API by real Serve over HTTPS, before the real controller: keys, roles, races, and whose name is on record."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from serinus import app as commands
from services import audit
from services.config import ServingConfig
from services.contract import CONTROL
from services.control.deploy import deploy_control
from services.serving.address import listen
from services.serving.applications import remove_application
from services.serving.keys import add_key, publish_keys
from tests.integration.gateway_world import eventually, free_port, port_of_serve
from tests.integration.rollout_world import CONFIG, Deployed
from tests.unit.certificate_files import make_pair
from tests.unit.services.control.scene import two_at_once

pytestmark = pytest.mark.integration


class Controlled:
    """A deployed model with a control API and a key for each role."""

    def __init__(self, root: Path) -> None:
        self.world = Deployed("controlled", root)
        self.file = root / "control-keys.yaml"
        self.tokens = {
            role: add_key(self.file, f"{role}-ann", control=role) for role in ("viewer", "operator", "admin")
        }
        self.certificate, key = make_pair(root)
        self.trusted = ssl.create_default_context(cafile=str(self.certificate))
        pair = {"certificate": str(self.certificate), "key": str(key)}
        self.serving = ServingConfig.model_validate(
            {"tls": pair, "control": {"port": free_port(), "keys": str(self.file)}}
        )
        self.url = self.deploy(self.serving)

    def deploy(self, serving: ServingConfig) -> str:
        return str(deploy_control(self.world.name, serving, CONFIG, self.world.storage))

    def ask(self, method: str, path: str, role: str = "operator", body: object = None) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.tokens.get(role, role)}"}
        url = f"{self.url}/control/v1{path}"
        return httpx.request(method, url, headers=headers, json=body, verify=self.trusted, timeout=60)

    def people(self) -> list[tuple[str, str]]:
        """Kind and who of the record, but for the analysis and serinus itself."""
        lines = [stored.entry.line for stored in audit.entries(self.world.storage, self.world.name)]
        return [(line.kind, line.who) for line in lines if line.who not in ("analysis", "serinus")]


def replicas() -> set[str]:
    """Of the control API, that run."""
    from ray.serve.context import _get_global_client

    deployments = _get_global_client().get_serve_details()["applications"][CONTROL]["deployments"]
    return {one["replica_id"] for one in deployments[CONTROL]["replicas"] if one["state"] == "RUNNING"}


@pytest.fixture(scope="module")
def controlled(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controlled]:
    listen(ServingConfig(port=port_of_serve()))
    scene = Controlled(tmp_path_factory.mktemp("controlled"))
    yield scene
    remove_application(CONTROL)
    scene.world.close()


def test_a_viewer_looks_an_operator_steers_and_the_record_names_their_keys(
    controlled: Controlled, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = controlled.world
    begun = controlled.ask("POST", "/rollouts", body={"revision": "candidate"})
    assert begun.status_code == 202, begun.text
    eventually(lambda: controlled.ask("GET", "/rollouts", "viewer").json()["rollouts"] != [], 20)
    rollout = controlled.ask("GET", "/rollouts/current", "viewer").json()["id"]
    assert controlled.ask("POST", f"/rollouts/{rollout}/weight", body={"weight_percent": 30}).status_code == 200
    refused = controlled.ask("POST", f"/rollouts/{rollout}/rollback", "viewer")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "insufficient_permissions")
    assert controlled.ask("GET", "/traffic", "sk-serinus-wrong").status_code == 401
    with pytest.raises(httpx.HTTPError):
        httpx.get(controlled.url.replace("https", "http"), timeout=5)

    monkeypatch.setenv("SSL_CERT_FILE", str(controlled.certificate))
    monkeypatch.setenv("SERINUS_API_KEY", controlled.tokens["operator"])
    shown = CliRunner().invoke(commands, ["canary", "status", "--server", controlled.url])
    assert f"rollout {rollout}: {world.candidate} against {world.stable}, progressing" in shown.output
    done = CliRunner().invoke(commands, ["canary", "rollback", "--server", controlled.url])
    assert done.exit_code == 0, done.output
    ended = world.wait(lambda status: status.ended)
    assert (ended.phase, ended.decisions[-1].who) == ("aborted", "key:operator-ann")
    assert controlled.ask("POST", f"/rollouts/{rollout}/rollback").status_code == 409
    expected = [
        ("waiting", "key:operator-ann"),
        ("started", "key:operator-ann"),
        ("held", "key:operator-ann"),
        ("aborted", "key:operator-ann"),
        ("refused", "key:viewer-ann"),
    ]
    eventually(lambda: sorted(controlled.people()) == sorted(expected), 20)


def test_of_two_promotions_at_once_one_wins(controlled: Controlled) -> None:
    world = controlled.world
    world.load(world.candidate)
    rollout = world.start()
    controlled.ask("POST", f"/rollouts/{rollout}/weight", body={"weight_percent": 10})
    assert two_at_once(lambda: controlled.ask("POST", f"/rollouts/{rollout}/promote").status_code) == [200, 409]
    ended = world.wait(lambda status: status.ended)
    assert (ended.phase, [d.action for d in ended.decisions].count("promote")) == ("promoted", 1)


def test_a_revoked_key_is_out_within_seconds_and_a_file_does_not_bring_it_back(controlled: Controlled) -> None:
    assert controlled.ask("DELETE", "/keys/control/viewer-ann", "admin").status_code == 200
    eventually(lambda: controlled.ask("GET", "/traffic", "viewer").status_code == 401, 10)
    publish_keys(controlled.world.storage, controlled.world.name, controlled.file, "control")
    assert controlled.ask("GET", "/keys", "admin").json()["control"] == [
        {"name": "operator-ann", "control": "operator"},
        {"name": "admin-ann", "control": "admin"},
    ]
    assert ("keys", "key:admin-ann") in controlled.people()


def test_the_same_again_replaces_nothing_another_recipe_does_and_one_without_takes_it_away(
    controlled: Controlled,
) -> None:
    before = replicas()
    assert controlled.deploy(controlled.serving) == controlled.url
    assert replicas() == before

    answers, ended = list[int](), threading.Event()

    def ask() -> None:
        while not ended.wait(0.02):
            answers.append(controlled.ask("GET", "/traffic", "admin").status_code)

    asking = threading.Thread(target=ask)
    asking.start()
    controlled.deploy(controlled.serving.replace(keep_revisions=2))
    ended.set()
    asking.join()
    assert not replicas() & before
    assert set(answers) == {200}, "nobody is turned away meanwhile"
    deploy_control(controlled.world.name, ServingConfig(), CONFIG, controlled.world.storage)
    with pytest.raises(httpx.ConnectError):
        controlled.ask("GET", "/traffic", "admin")
