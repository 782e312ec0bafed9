"""From configuration to Serve applications: one permanent gateway, one application per revision.

Call these from a process that has joined the cluster (cluster.session.joined). Applications outlive the process.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cluster.artifacts import Revision, digest
from cluster.code_version import code_version
from cluster.errors import ConfigError, InputError, ResourceError
from cluster.pools import on_pool
from cluster.registry import resolve
from cluster.storage import Storage, open_storage
from cluster.telemetry import logger
from services.config import ServingConfig
from services.contract import APPLICATION_PREFIX, GATEWAY, MODEL_DEPLOYMENT, application_name
from services.engines import num_running, take, tell
from services.serving import tls
from services.serving.address import check_free, listen, num_listening, reached_at, url_at, wait_answering
from services.serving.applications import (
    is_deployed,
    quiet,
    remove_application,
    run_application,
    runs_with,
    says,
    statuses,
)
from services.serving.engine import bundles, engine_of
from services.serving.keys import publish_keys
from services.serving.lora import attach_adapter, check_room
from services.serving.readiness import check_code, wait_running

log = logger("serving")

GATEWAY_TIMEOUT_S = 300.0
TOKENIZER_FILES = frozenset({"tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json"})


def gateway_url(serving: ServingConfig) -> str:
    """Where clients on this machine reach the gateway: OpenAI's base URL."""
    return url_at(reached_at(serving.host), serving)


def deploy(name: str, revision: Revision, serving: ServingConfig, storage: Storage) -> None:
    """Load the revision and start the gateway of the public name `name` meanwhile; then `wait_gateway`. What did not run before
    is removed again when the revision does not come up.

    Raises:
        As deploy_revision and deploy_gateway.
    """
    had_gateway = is_deployed(GATEWAY)
    engine = resolve(storage, name, revision.base) if revision.base else revision
    try:
        deploy_revision(engine, serving, storage, meanwhile=lambda: start_gateway(name, serving, storage.location))
        if engine != revision:
            deploy_revision(revision, serving, storage)
    except BaseException:
        if not had_gateway:
            remove_application(GATEWAY)
        raise


def deploy_gateway(name: str, serving: ServingConfig, storage_uri: str) -> None:
    """Serve the public name `name`; does nothing when the gateway runs with the same settings and the same serinus.

    Raises:
        ConfigError: the file of API keys is missing or not valid.
        ResourceError: the port is taken, or Serve listens elsewhere already.
        StageFailed: the gateway did not come up.
    """
    start_gateway(name, serving, storage_uri)
    wait_gateway(name, serving, storage_uri)


def start_gateway(name: str, serving: ServingConfig, storage_uri: str) -> None:
    """The first half of deploy_gateway."""
    tls.check(serving)
    settings = _gateway_settings(name, serving, storage_uri)
    _publish_keys(name, serving, storage_uri)
    quiet()
    listen(serving)
    if not runs_with(GATEWAY, GATEWAY, settings):
        from services.serving import gateway_app

        if serving.is_direct and not is_deployed(GATEWAY):
            check_free(serving.host, serving.port, "serve.port")
        run_application(gateway_app.build(name, serving, storage_uri, _gateway_nodes(serving), settings), GATEWAY, "/")


def wait_gateway(name: str, serving: ServingConfig, storage_uri: str) -> None:
    """The second half of deploy_gateway: return when it answers.

    Raises:
        ResourceError: a machine on which gateways run has another serinus.
    """
    settings = _gateway_settings(name, serving, storage_uri)
    wait_running(GATEWAY, GATEWAY_TIMEOUT_S, enough=lambda overview: _replaced(overview, serving, settings))
    wait_answering(serving, _gateway_nodes(serving))
    check_code(GATEWAY)


def _gateway_settings(name: str, serving: ServingConfig, storage_uri: str) -> str:
    chosen = serving.model_dump(
        mode="json",
        include={"pool", "num_gateway_replicas", "user_header", "show_revision", "admission", "shadow", "tracing"},
    )
    address = {"host": serving.host, "port": serving.port} if serving.is_direct else {}
    chosen |= {"name": name, "storage": storage_uri, "code": code_version(), **tls.shown(serving)}
    return digest({**address, **chosen})


def _replaced(overview: Any, serving: ServingConfig, settings: str) -> bool:
    """Whether all gateways are new ones, and old ones only end what they began: that may take as long as an answer may. An old one
    that still takes connections knows nothing of new keys and limits."""
    states = {state: number for state, number in overview.deployments[GATEWAY].replica_states.items() if number}
    ending = states.pop("STOPPING", 0)
    if serving.is_direct and num_listening(serving) > serving.num_gateway_replicas:
        return False
    return ending > 0 and states == {"RUNNING": serving.num_gateway_replicas} and says(GATEWAY, GATEWAY, settings)


def _gateway_nodes(serving: ServingConfig) -> dict[str, str]:
    """Who listens on loopback himself serves the machine he is on: the head's, where commands and jobs run too."""
    return on_pool("head" if serving.is_direct and serving.on_loopback else serving.pool)


def _publish_keys(name: str, serving: ServingConfig, storage_uri: str) -> None:
    """Before the gateway comes up, so that its first request finds them."""
    if serving.admission.keys is not None:
        publish_keys(open_storage(storage_uri), name, Path(serving.admission.keys))
    elif not serving.on_loopback:
        log.warning("the gateway listens on %s and asks for no key: set serve.admission.keys", serving.host)


def deploy_revision(
    revision: Revision, serving: ServingConfig, storage: Storage, meanwhile: Callable[[], None] = lambda: None
) -> None:
    """Load the revision and return when its replicas have answered a warm-up request; `meanwhile` is called while they load.

    Loads nothing when the revision runs with the same settings. What does not come up is removed again. An adapter is loaded
    into its base's engine, which is started where it does not run and else left as it is.

    Raises:
        ConfigError: the revision's engine settings are not valid.
        InputError: the weights' folder is not a model with a tokenizer.
        ResourceError: no node of the pool has the resources, or the port is taken.
        StageFailed: the revision did not load, or not within `ready_timeout_s`.
    """
    if revision.adapter:
        if revision.base not in running_revisions():
            deploy_revision(resolve(storage, revision.name, revision.base), serving, storage, meanwhile)
        else:
            meanwhile()
        attach_adapter(revision, storage, serving.ready_timeout_s)
        return
    name = application_name(revision.revision)
    settings = _settings_of(revision, serving, storage)
    check_room(revision, engine_of(revision, serving), storage)
    quiet()
    rested = take(storage, revision.name, revision.revision, remove_revision)
    if runs_with(name, MODEL_DEPLOYMENT, settings, serving.ready_timeout_s):
        log.info("%s runs already", name)
        meanwhile()
        if rested:
            tell(revision.revision)
        return
    _check_weights(revision, storage)
    selector = on_pool(serving.pool)
    _check_resources(revision, serving, selector)
    listen(serving)
    from services.serving import model_app

    served_before = revision.revision in running_revisions()
    present = num_running(revision.revision)
    run_application(
        model_app.build(revision, serving, storage.location, selector, settings, present=present), name, None
    )
    try:
        meanwhile()
        wait_running(name, serving.ready_timeout_s)
    except BaseException:  # Ctrl-C too: a half-started revision must not hold memory; one that serves users goes on
        if not served_before:
            remove_revision(revision.revision)
        raise


def remove_revision(revision_id: str) -> None:
    """Drain and stop the revision; does nothing when it does not run."""
    remove_application(application_name(revision_id))


def running_revisions() -> list[str]:
    """Revisions whose application runs, sorted."""
    return [
        name.removeprefix(APPLICATION_PREFIX)
        for name, status in statuses().items()
        if name.startswith(APPLICATION_PREFIX) and status == "RUNNING"
    ]


def _settings_of(revision: Revision, serving: ServingConfig, storage: Storage) -> str:
    try:
        engine = engine_of(revision, serving)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        where = f"revision {revision.revision}: engine.{'.'.join(str(part) for part in detail['loc'])}"
        raise ConfigError(where, detail["msg"], "correct the engine settings and publish the revision again") from None
    parts = {"engine": engine, "replicas": serving.replicas}
    dumped = {key: part.model_dump(mode="json") for key, part in parts.items()}
    if serving.tracing is not None:  # what an engine knows of it: which requests are sampled is the gateway's affair
        dumped["tracing"] = serving.tracing.model_dump(include={"endpoint", "protocol"})
    return digest({"weights": f"{storage.uri}/{revision.weights}", "pool": serving.pool, **dumped})


def _check_weights(revision: Revision, storage: Storage) -> None:
    where = f"{storage.uri}/{revision.weights}"
    names = {key.rpartition("/")[2] for key in storage.list(revision.weights)}
    if "config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise InputError(where, "not a model folder (config.json and *.safetensors)", "publish the revision again")
    if not names & TOKENIZER_FILES:
        raise InputError(where, "the model has no tokenizer", "put the tokenizer's files beside config.json")


def _check_resources(revision: Revision, serving: ServingConfig, selector: dict[str, str]) -> None:
    """Refuse at once what no node of the pool could ever hold; what is only taken at the moment is waited for."""
    import ray

    needed = bundles(engine_of(revision, serving))[0]
    nodes = [node for node in ray.nodes() if node["Alive"]]
    matching = [n for n in nodes if all(n.get("Labels", {}).get(k) == v for k, v in selector.items())]
    if any(all(node["Resources"].get(k, 0) >= v for k, v in needed.items()) for node in matching):
        return
    most = {k: max((node["Resources"].get(k, 0) for node in matching), default=0) for k in needed}
    found = f"each engine worker needs {needed}, the largest node of pool {serving.pool} has {most}"
    raise ResourceError(f"revision {revision.revision}", found, "lower serve.engine.num_cpus or num_gpus, or add nodes")
