"""What is asked of a running engine beyond the settings it was started with: adapters to hold, replicas to have, rest.

    registry/<name>/engines.json    revision of the engine -> its order; changed by compare-and-set

The order stands in storage, so a replica that starts later or anew finds it; `tell` lets those that run follow at once. An
engine goes by the revision whose application it is: an adapter's revision has none of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from cluster.artifacts import Revision
from cluster.config import StrictModel
from cluster.errors import Conflict, InputError, UserError
from cluster.storage import ABSENT, Storage
from cluster.telemetry import logger
from services.contract import MODEL_DEPLOYMENT, application_name

log = logger("engines")

NUM_ATTEMPTS = 20
TELL_TIMEOUT_S = 60.0
"""For all replicas to load an adapter of some megabytes, from a bucket too."""


class Order(StrictModel):
    """What is asked of one engine."""

    adapters: dict[str, str] = {}
    """Adapter's revision -> storage folder of its PEFT files."""
    floor: int = 0
    """Replicas that a rollout needs of it, whatever its present load."""
    resting_since: datetime | None = None
    """Nobody is on it since then: one replica is kept warm, asleep where vLLM can, whatever its least number is."""
    stopping: bool = False
    """Its application is about to be removed: nobody is put on it any more. An engine that rests goes to whoever changes its order
    first, to be stopped (`claim_stop`) or to work again (`reserve`)."""


class Engines(StrictModel):
    name: str
    orders: dict[str, Order] = {}
    """By the engine's revision; engines without an entry have nothing asked of them."""

    def order(self, engine: str) -> Order:
        return self.orders.get(engine, Order())

    @property
    def hosts(self) -> dict[str, str]:
        """Adapter's revision -> the revision whose engine holds it."""
        return {adapter: engine for engine, order in self.orders.items() for adapter in order.adapters}


class EngineReport(StrictModel):
    """What one replica says of itself."""

    replica: str
    max_rank: int | None = None
    """Of adapters; None when the engine was started without room for any."""
    max_adapters: int = 0
    adapters: tuple[str, ...] = ()
    """Revisions whose adapter is loaded."""
    problems: dict[str, str] = {}
    """Adapter's revision -> why it could not be loaded."""
    max_replicas: int = 1
    """Most replicas that autoscaling gives it."""
    asleep: bool = False
    """Its weights are out of the GPU's memory."""


def engines_key(name: str) -> str:
    return f"registry/{name}/engines.json"


def read_engines(storage: Storage, name: str) -> Engines:
    """The orders of all engines of that public name.

    Raises:
        InputError: the document is damaged.
    """
    return _read(storage, name)[0]


def change_order(storage: Storage, name: str, engine: str, change: Callable[[Order], Order]) -> Order:
    """Change one engine's order; returns it as it is now.

    Raises:
        Conflict: others kept changing it.
    """
    for _ in range(NUM_ATTEMPTS):
        present, version = _read(storage, name)
        order = change(present.order(engine))
        orders = {**present.orders, engine: order}
        changed = present.replace(orders={key: one for key, one in orders.items() if one != Order()})
        if changed == present:
            return order
        try:
            # Without defaults: engines that an older version deployed refuse fields that they do not know.
            content = changed.model_dump_json(indent=1, exclude_defaults=True).encode()
            storage.write(engines_key(name), content, expect=version)
        except Conflict:
            continue
        return order
    raise Conflict(f"the orders of {name}'s engines are being changed by others all the time")


def _read(storage: Storage, name: str) -> tuple[Engines, str]:
    blob = storage.read(engines_key(name))
    if blob is None:
        return Engines(name=name), ABSENT
    try:
        return Engines.model_validate_json(blob.content), blob.version
    except ValueError as error:
        where = f"{storage.uri}/{engines_key(name)}"
        raise InputError(where, f"is no list of orders ({str(error).splitlines()[0]})", "restore the file") from None


UNKNOWN_METHOD: Final = "Tried to call a method 'follow_order' that does not exist"
"""What Serve's replica answers to a method its class has not (ray/serve/_private/replica.py)."""


def tell(engine: str, timeout_s: float = TELL_TIMEOUT_S) -> tuple[EngineReport, ...]:
    """Let every running replica of that engine read its order now; returns what they say. In a joined cluster.

    Raises:
        TimeoutError, RayError: a replica does not answer, or dies. It reads the order again when it comes up.
    """
    told = _handle(engine).broadcast("follow_order").results(timeout_s=timeout_s)
    return tuple(EngineReport.model_validate(one) for one in told)


def check_follows(engine: str) -> None:
    """A rollout asks both engines for replicas; one of an older version knows no orders, and no step would ever get its weight.
    One that does not run, or does not answer now, is not judged. In a joined cluster.

    Raises:
        UserError: it was deployed by a version without orders.
    """
    if not num_running(engine):
        return
    try:
        tell(engine)
    except Exception as error:  # starting, dying, busy: the rollout itself tells it again
        if UNKNOWN_METHOD in str(error):
            found = "was deployed by an older version of serinus, and cannot be told how many replicas a rollout needs"
            raise UserError(f"revision {engine}", found, "deploy it again: serinus deploy RECIPE") from None
        log.warning("the engine of %s was not asked whether it follows orders: %r", engine, error)


def num_running(engine: str) -> int:
    """Replicas of that engine that run now. In a joined cluster."""
    from ray import serve

    application = serve.status().applications.get(application_name(engine))
    deployments = application.deployments.values() if application else ()
    return sum(int(deployment.replica_states.get("RUNNING", 0)) for deployment in deployments)


def knock(engine: str) -> Any:
    """A request, which brings an engine back that was scaled to zero (what goes to all its replicas does not). Returns Ray's
    response: its `result` is there when a replica runs."""
    return _handle(engine).settings.remote()


def wait_awake(engine: str, timeout_s: float) -> None:
    """Return when a replica of that engine runs, brought back where there was none.

    Raises:
        TimeoutError: none came up.
    """
    if not num_running(engine):
        knock(engine).result(timeout_s=timeout_s)


def _handle(engine: str) -> Any:
    from ray import serve

    return serve.get_deployment_handle(MODEL_DEPLOYMENT, application_name(engine))


def reserve(storage: Storage, name: str, engine: str, floor: int = 0) -> bool:
    """Let an engine that rests work again, with `floor` replicas at least, before anybody is put on it; one that works is left
    alone. False: it is being stopped."""

    def change(order: Order) -> Order:
        rests = order.resting_since is not None and not order.stopping
        return order.replace(resting_since=None, floor=floor) if rests else order

    return not change_order(storage, name, engine, change).stopping


def claim_stop(storage: Storage, name: str, engine: str, rested_since: datetime) -> bool:
    """Have an engine that rests since then, or longer, to stop it: from here on nobody chooses it. False: it works again."""

    def change(order: Order) -> Order:
        rested = order.resting_since is not None and order.resting_since <= rested_since
        return order.replace(stopping=True) if rested else order

    return change_order(storage, name, engine, change).stopping


def take(storage: Storage, name: str, engine: str, remove: Callable[[str], None]) -> bool:
    """Have an engine that may be running for a rollout: nobody stops it from here on, and one whose stop has begun is gone.
    Returns whether it rested, and is to be told that it works again."""
    rested = read_engines(storage, name).order(engine).resting_since is not None
    if reserve(storage, name, engine):
        return rested
    remove(engine)
    change_order(storage, name, engine, lambda order: order.replace(stopping=False, resting_since=None))
    return False


def attach(storage: Storage, adapter: Revision) -> tuple[EngineReport, ...]:
    """Let the base's engine load that adapter, and those that start later too; returns what the replicas say."""
    folder = {adapter.revision: adapter.adapter}
    change_order(
        storage, adapter.name, adapter.base, lambda order: order.replace(adapters={**order.adapters, **folder})
    )
    return tell(adapter.base)


def detach(storage: Storage, name: str, adapter: str) -> None:
    """Let the engine that holds that adapter unload it; nothing happens when none does. The engine goes on."""
    engine = read_engines(storage, name).hosts.get(adapter)
    if engine is None:
        return
    change_order(storage, name, engine, lambda order: order.replace(adapters=_without(order.adapters, adapter)))
    try:
        tell(engine)
    except Exception as error:  # it may be gone, or starting: the order stands, and whoever comes up reads it
        log.warning("the engine of %s was not told to unload %s: %r", engine, adapter, error)


def _without(adapters: dict[str, str], adapter: str) -> dict[str, str]:
    return {revision: folder for revision, folder in adapters.items() if revision != adapter}
