"""What a recipe may say of the control API, and the commands for its keys."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from cluster import config
from cluster.errors import ConfigError, InputError, UserError
from cluster.storage import LocalStorage
from serinus import app
from services import audit
from services.commands.deploy import deploy
from services.commands.record import key_changes
from services.config import ServingConfig
from services.control import orders
from services.control.deploy import control_url
from services.rollout import controller
from services.serving.keys import add_key, publish_keys, read_keys
from tests.unit.test_check import GOOD

TLS = {"certificate": "a.pem", "key": "b.pem"}


def test_there_is_none_unless_asked_for_and_then_on_loopback() -> None:
    assert ServingConfig().control is None
    assert "control" not in ServingConfig().model_dump(), "older versions read what is stored"
    found = ServingConfig.model_validate({"control": {"keys": "control.yaml"}})
    assert control_url(found) == "http://127.0.0.1:8010"


@pytest.mark.parametrize(
    ("serve", "says"),
    [
        ({"control": {}}, "keys"),
        ({"control": {"keys": "k.yaml", "port": 8000}}, "is the gateway's port"),
        ({"control": {"keys": "k.yaml", "host": "0.0.0.0"}}, "set serve.tls"),
        ({"control": {"keys": "k.yaml", "host": "127.0.0.1.example.com"}}, "set serve.tls"),
        ({"control": {"keys": "k.yaml"}, "admission": {"keys": "k.yaml"}}, "the users' file"),
        ({"control": {"keys": "k.yaml", "open": True}}, "Extra inputs"),
    ],
)
def test_what_would_be_open_or_in_the_gateways_way_is_refused(serve: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        ServingConfig.model_validate(serve)


def test_with_a_certificate_it_may_be_open_to_a_network() -> None:
    found = ServingConfig.model_validate({"control": {"keys": "k.yaml", "host": "0.0.0.0"}, "tls": TLS})
    assert control_url(found) == "https://127.0.0.1:8010"


def test_a_file_that_cannot_be_used_is_told_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller, "check_renewal", lambda *given: None)
    file = tmp_path / "control.yaml"
    serving = ServingConfig.model_validate({"control": {"keys": str(file)}})
    loaded: Any = SimpleNamespace(name="m", serve=serving)
    with pytest.raises(ConfigError, match="no such file"):
        deploy(loaded, LocalStorage(tmp_path / "store"), tmp_path / "recipe.yaml")
    add_key(file, "ann")
    with pytest.raises(ConfigError, match="no key of the control API"):
        deploy(loaded, LocalStorage(tmp_path / "store"), tmp_path / "recipe.yaml")


def test_a_controller_of_before_orders_named_their_rollout_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = SimpleNamespace(remote=None)
    before: Any = SimpleNamespace(set_weight=method, promote=method, abort=method)  # as the handle of such an actor
    monkeypatch.setattr(controller, "ensure_controller", lambda *given: before)
    monkeypatch.setattr(orders, "ensure_controller", lambda *given: before)
    ordered = orders.ControllerOrders(LocalStorage(tmp_path), "m")
    for order in (
        lambda: ordered.set_weight(5, "key:ann", "20260101-000000-000000"),
        lambda: ordered.promote("key:ann", "20260101-000000-000000"),
        lambda: ordered.abort("key:ann", "20260101-000000-000000"),
        lambda: ordered.revert("key:ann", "m-00000001"),
    ):
        with pytest.raises(UserError, match="serinus deploy RECIPE replaces it"):
            order()


def test_an_address_of_version_6_has_its_brackets() -> None:
    found = ServingConfig.model_validate({"control": {"keys": "k.yaml", "host": "::1"}})
    assert control_url(found) == "http://[::1]:8010"


def test_what_a_deployment_that_breaks_off_did_to_the_keys_is_on_record(tmp_path: Path) -> None:
    storage, file = LocalStorage(tmp_path / "store"), tmp_path / "control.yaml"
    add_key(file, "ann", control="admin")

    def broken_off() -> None:
        with key_changes(storage, "m"):
            publish_keys(storage, "m", file, "control")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    told = [stored.entry.line.message for stored in audit.entries(storage, "m")]
    assert told == ["control API: added: ann (admin)"]


@pytest.mark.parametrize("name", ["key:ann", "KEY:ann", " key:ann"])
def test_no_command_acts_in_a_name_that_a_key_has_proven(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERINUS_USER", name)
    with pytest.raises(ConfigError, match="SERINUS_USER"):
        config.user_name()


def test_a_key_is_made_listed_and_revoked_with_its_role_on_record(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(GOOD.replace("serve:\n", "serve:\n  control: {keys: control.yaml}\n", 1))

    def keys(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["keys", *arguments, "--recipe", str(recipe)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.stdout.strip()

    with pytest.raises(ConfigError, match=r"serve\.admission\.keys"):
        keys("add", "ann")
    token = keys("add", "ann", "--control", "operator")
    storage = LocalStorage(tmp_path / "store")
    published = read_keys(storage, "smollm2", "control")[0]
    assert (found := published.owner(token)) is not None
    assert found.control == "operator"
    assert read_keys(storage, "smollm2")[0].keys == ()
    assert keys("list").split() == ["control", "ann", "control=operator"]
    keys("revoke", "ann", "--control")
    keys("apply")
    assert keys("list") == ""
    told = [stored.entry.line.message for stored in audit.entries(storage, "smollm2")]
    assert told == ["control API: added: ann (operator)", "control API: removed: ann (operator)"]
    storage.write("registry/smollm2/control-keys.json", b"{")
    with pytest.raises(InputError, match="serinus keys apply"):
        keys("list")
    keys("apply")
    assert keys("list").split() == ["control", "ann", "control=operator"], "what was revoked is not known any more"
    with pytest.raises(ConfigError, match="neither rights nor tokens"):
        keys("add", "bob", "--control", "viewer", "--right", "canary")
