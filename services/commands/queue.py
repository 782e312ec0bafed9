"""A candidate that finds a rollout under way: what its recipe says it shall do."""

from __future__ import annotations

from cluster import config
from cluster.errors import InputError
from cluster.storage import Storage
from services.commands.recipe import ServedRecipe
from services.commands.record import traffic_of
from services.contract import read_traffic


def queue_up(loaded: ServedRecipe, storage: Storage, candidate: str) -> str | None:
    """Do what the recipe says for a candidate that finds a rollout under way, before minutes of loading it; None: nothing is."""
    from datetime import UTC, datetime

    from services.rollout import probes, waiting

    for chosen in loaded.rollout.probes.sets:
        probes.read_set(chosen)
    if traffic_of(storage, loaded.name).stable == candidate:
        raise InputError(f"revision {candidate}", "is stable already", "publish another one: serinus run RECIPE")
    keep, who = loaded.serve.keep_revisions, config.user_name()
    items = probes.publish(storage, loaded.name, loaded.rollout.probes)
    asked = waiting.Waiting(
        revision=candidate, config=loaded.rollout, serving=loaded.serve, keep_revisions=keep, who=who,
        probe_items=items, at=datetime.now(UTC),
    )  # fmt: skip
    return waiting.queue_up(storage, loaded.name, asked)


def let_wait(loaded: ServedRecipe, storage: Storage, candidate: str) -> str | None:
    """What `run` published during a rollout waits for its turn where the recipe says so; the controller finds it in storage.

    Returns what was done, for people.
    """
    if loaded.rollout.when_busy == "refuse" or read_traffic(storage, loaded.name) is None:
        return None
    done = queue_up(loaded, storage, candidate)
    return f"{done} (rollout.when_busy: {loaded.rollout.when_busy})" if done is not None else None
