"""The rollout controller as the command line uses it: the actor is started, asked and told here.

Inside cluster.session.joined() where a function says so.
"""

from __future__ import annotations

import time
from typing import Any

from cluster import registry
from cluster.code_version import code_version
from cluster.errors import ClusterError, Conflict, ResourceError, UserError
from cluster.storage import ABSENT, Storage
from cluster.telemetry import logger
from services.config import RolloutConfig
from services.contract import NAMESPACE, Traffic, actor_name, read_traffic, write_traffic
from services.engines import check_follows
from services.rollout import prober, probes
from services.rollout.actor import Controller
from services.rollout.acts import Applications
from services.rollout.answers import ANSWER_TIMEOUT_S, answer
from services.rollout.clock import wall
from services.rollout.decay_status import WatchStatus, read_watch
from services.rollout.status import RolloutStatus, read_status

log = logger("rollout")

MAX_CONCURRENCY = 16
"""Calls answered at once: records of many gateways never wait for a person's command."""


def ensure_traffic(storage: Storage, name: str, stable_revision: str) -> Traffic:
    """The traffic of `name`; where there is none yet, everybody gets `stable_revision`. Needs no cluster."""
    found = read_traffic(storage, name)
    if found is not None:
        return found[0]
    traffic = Traffic(name=name, stable=stable_revision, changed_at=wall(), reason="first deployment")
    try:
        write_traffic(storage, traffic, expect=ABSENT)
    except Conflict:  # another deployment was first: its traffic it is
        return ensure_traffic(storage, name, stable_revision)
    if "stable" not in registry.aliases(storage, name):
        registry.move_alias(storage, name, "stable", stable_revision, who="serinus", why="first deployment")
    return traffic


def status(storage: Storage, name: str) -> RolloutStatus | None:
    """The rollout under way, or the last one. Needs no cluster."""
    found = read_status(storage, name, lossy=True)
    return found[0] if found else None


def ensure_controller(name: str, storage_uri: str, applications: Applications | None = None) -> Any:
    """The controller of `name` in the joined cluster, started where it is not there yet; returns the actor's handle.

    Raises:
        UserError: there is one that watches another storage.
        ClusterError: it does not start.
    """
    actor = _controller(name, storage_uri, applications)
    if (code := _code(name, actor)) != code_version():
        log.warning("the controller of %s runs serinus %s, this command is %s: serinus deploy RECIPE replaces it",
                    name, code, code_version())  # fmt: skip
    return actor


def check_renewal(storage: Storage, name: str) -> None:
    """Before a deployment: a controller of another serinus is replaced by one of this, which has to be able to go on with the
    rollout under way. In a joined cluster.

    Raises:
        InputError: it could not.
    """
    actor = _found(actor_name(name))
    if actor is not None and _code(name, actor) != code_version():
        read_status(storage, name)


def renew_controller(name: str, storage_uri: str, applications: Applications | None = None) -> Any:
    """As `ensure_controller`; one of another serinus is replaced first, with the prober. It writes all that it knows before it
    ends, and gateways keep what they have to tell until the next one is there. In a joined cluster.

    Raises:
        UserError, ClusterError: as there.
        ResourceError: the head has another serinus than this command.
    """
    actor = _controller(name, storage_uri, applications)
    before = _code(name, actor)
    if before == code_version():
        return actor
    asks = _found(prober.prober_name(name))
    _retire(name, actor)
    for replaced, handle in ((actor_name(name), actor), (prober.prober_name(name), asks)):
        _end(name, replaced, handle)
    actor = _controller(name, storage_uri, applications)
    if (code := _code(name, actor)) != code_version():
        remedy = "install the same there, then deploy again"
        raise ResourceError(f"rollout controller of {name}", f"the head has serinus {code}, this command is {code_version()}",
                            remedy)  # fmt: skip
    log.info("the controller of %s is of serinus %s now, it was of %s", name, code, before)
    return actor


def _code(name: str, actor: Any) -> str:
    """Which serinus it runs. Those that do not say are of versions before this was asked."""
    return str(answer(name, actor.code.remote())) if hasattr(actor, "code") else "of an older version"


def _found(actor: str) -> Any:
    """The actor of that name; None without one."""
    import ray

    try:
        return ray.get_actor(actor, namespace=NAMESPACE)
    except ValueError:  # Ray's way to say that there is none
        return None


def _retire(name: str, actor: Any) -> None:
    """Let it write what it knows. One of before this was asked cannot; one that another deployment has ended meanwhile did."""
    try:
        if hasattr(actor, "retire"):
            answer(name, actor.retire.remote())
    except ClusterError:
        if _found(actor_name(name)) == actor:
            raise


def _end(name: str, actor: str, replaced: Any) -> None:
    """Kill that one for good and return when its name is free, or has gone to the next one, as by another deployment.

    Raises:
        ClusterError: it is not, after ANSWER_TIMEOUT_S.
    """
    import ray

    ends_at = time.monotonic() + ANSWER_TIMEOUT_S
    while (handle := _found(actor)) is not None and handle == replaced:
        ray.kill(handle)
        if time.monotonic() > ends_at:
            raise ClusterError(f"{actor} of {name}", "does not end", "see `serinus status`, then try again")
        time.sleep(0.05)


def _controller(name: str, storage_uri: str, applications: Applications | None) -> Any:
    import ray

    from cluster.pools import on_pool

    actor: Any = (
        ray.remote(Controller)
        .options(
            name=actor_name(name),
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=MAX_CONCURRENCY,
            label_selector=on_pool("head"),
        )
        .remote(name, storage_uri, applications)
    )
    watched = _watched_storage(name, actor)
    if watched != storage_uri:
        remedy = "use that storage with those options, or give the model another name"
        raise UserError(f"model {name}", f"is rolled out from {watched} already, not from {storage_uri}", remedy)
    return actor


def _watched_storage(name: str, actor: Any) -> str:
    """The controller's answer to a question that may be asked again: waits for one that is being restarted."""
    ends_at = time.monotonic() + ANSWER_TIMEOUT_S
    while True:
        try:
            return str(answer(name, actor.storage_uri.remote()))
        except ClusterError:
            if time.monotonic() > ends_at:
                raise
            time.sleep(0.2)


def check_engines(storage: Storage, name: str, candidate: str) -> None:
    """Before a candidate is loaded: the engines of stable and, where it runs already, the candidate take a rollout's orders. In a
    joined cluster.

    Raises:
        UserError: one was deployed by an older version.
    """
    found = read_traffic(storage, name)
    revisions = (candidate, found[0].stable) if found else (candidate,)
    for engine in {registry.engine_of(storage, name, revision) for revision in revisions}:
        check_follows(engine)


def start_rollout(
    storage: Storage,
    name: str,
    revision_id: str,
    config: RolloutConfig,
    *,
    keep_revisions: int = 1,
    who: str = "serinus",
) -> str:
    """Begin the rollout of a revision whose model server runs; returns the rollout's id. In a joined cluster.

    Raises:
        UserError: a rollout is under way, nothing is deployed, the revision cannot be one's candidate, a file of probes is wrong,
            or the key of a judge is not set on the head node.
    """
    items = probes.publish(storage, name, config.probes)
    actor = ensure_controller(name, storage.location)
    if items:
        prober.check_probes(name, storage.location, config.probes)
    return str(answer(name, actor.start.remote(config, revision_id, keep_revisions, who, items)))


def ensure_probes(storage: Storage, name: str) -> None:
    """Start the prober again where a rollout or a watch wants something asked, as after the cluster was restarted. In a joined
    cluster."""
    rollout, watch = status(storage, name), decay(storage, name)
    if (rollout and not rollout.ended and rollout.probe_items) or (watch and watch.asks):
        prober.ensure_prober(name, storage.location)


def decay(storage: Storage, name: str) -> WatchStatus | None:
    """The watch over the promoted revision, or the last one. Needs no cluster."""
    found = read_watch(storage, name)
    return found[0] if found else None


def wake(storage: Storage, name: str) -> None:
    """Let the controller look at what was asked for in storage. In a joined cluster."""
    answer(name, ensure_controller(name, storage.location).wake.remote())


def set_weight(storage: Storage, name: str, weight_percent: float, *, who: str, of: str | None = None) -> RolloutStatus:
    """Hold the canary at a weight. `of`: the rollout that is meant, None for whichever is under way. In a joined cluster, as those
    below."""
    actor = ensure_controller(name, storage.location)
    found: RolloutStatus = answer(name, actor.set_weight.remote(weight_percent, who, *_meant(name, actor, of)))
    return found


def promote(storage: Storage, name: str, *, who: str, of: str | None = None) -> RolloutStatus:
    """Make the candidate stable now."""
    actor = ensure_controller(name, storage.location)
    found: RolloutStatus = answer(name, actor.promote.remote(who, *_meant(name, actor, of)))
    return found


def abort(storage: Storage, name: str, *, who: str, of: str | None = None) -> RolloutStatus | None:
    """Take the candidate out now, or outside a rollout, where none is named, go back to the previous revision."""
    actor = ensure_controller(name, storage.location)
    found: RolloutStatus | None = answer(name, actor.abort.remote(who, *_meant(name, actor, of)))
    return found


def revert(storage: Storage, name: str, *, who: str, stable: str) -> None:
    """Outside a rollout, go back from `stable` to the previous revision."""
    actor = ensure_controller(name, storage.location)
    _check_named(name, actor)
    answer(name, actor.revert.remote(who, stable))


def _meant(name: str, actor: Any, rollout_id: str | None) -> tuple[str, ...]:
    """Left out where none is: a controller that an older version started must obey a command too."""
    if rollout_id is None:
        return ()
    _check_named(name, actor)
    return (rollout_id,)


def _check_named(name: str, actor: Any) -> None:
    """Raises UserError: it was started before orders named what they are about, and would not know how to take one."""
    if not hasattr(actor, "revert"):
        found = "was started by an older version, and takes no orders of the control API"
        raise UserError(f"rollout controller of {name}", found, "serinus deploy RECIPE replaces it")
