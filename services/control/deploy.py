"""Putting up the control API as a recipe has it, or away where it has none. In a joined cluster where Serve runs."""

from __future__ import annotations

from pathlib import Path

from cluster.artifacts import digest
from cluster.code_version import code_version
from cluster.storage import Storage, sha256_of
from services.config import RolloutConfig, ServingConfig
from services.contract import CONTROL
from services.rollout import probes
from services.serving import tls
from services.serving.address import check_free, origin, reached_at
from services.serving.applications import is_deployed, remove_application, run_application, runs_with
from services.serving.keys import publish_keys, read_file
from services.serving.readiness import wait_running

TIMEOUT_S = 120.0


def deploy_control(name: str, serving: ServingConfig, rollout: RolloutConfig, storage: Storage) -> str | None:
    """Returns where it answers; None where the recipe has none, and then none runs any more.

    Raises:
        ConfigError: the file of keys, or the certificate, cannot be used.
        ResourceError: the port is taken.
        StageFailed: it does not come up.
    """
    if serving.control is None:
        remove_application(CONTROL)
        return None
    from services.control.desk import Terms

    check_control(serving)
    publish_keys(storage, name, Path(serving.control.keys), "control")
    terms = Terms(rollout=rollout, serving=serving, probe_items=probes.publish(storage, name, rollout.probes))
    settings = _settings(name, storage, terms.model_dump(mode="json"), serving)
    if not runs_with(CONTROL, CONTROL, settings):
        from services.control import server

        run_application(server.build(name, storage.location, terms, settings), CONTROL, None)
        wait_running(CONTROL, TIMEOUT_S)
    return control_url(serving)


def check_control(serving: ServingConfig) -> None:
    """Whether it could come up as the recipe has it: before minutes of loading models. In a joined cluster.

    Raises:
        ConfigError: the file of keys, or the certificate, cannot be used.
        ResourceError: the port is taken.
    """
    if serving.control is None:
        return
    tls.check(serving)
    read_file(Path(serving.control.keys), "control")
    if not is_deployed(CONTROL):
        check_free(serving.control.host, serving.control.port, "serve.control.port")


def control_url(serving: ServingConfig) -> str:
    """Where it answers those on the head."""
    assert serving.control is not None
    return origin(reached_at(serving.control.host), serving.control.port, serving)


def _settings(name: str, storage: Storage, terms: object, serving: ServingConfig) -> str:
    """A renewed certificate, and another serinus, too make a new one."""
    certificate = sha256_of(Path(serving.tls.certificate)) if serving.tls else ""
    told = {"name": name, "storage": storage.location, "terms": terms, "certificate": certificate}
    return digest({**told, "code": code_version()})
