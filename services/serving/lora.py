"""An adapter let into the engine of its base: what must be so before, and what is said where it is not."""

from __future__ import annotations

import json

from cluster.artifacts import Revision
from cluster.errors import ConfigError, InputError, StageFailed
from cluster.storage import Storage
from services.config import EngineConfig
from services.engines import EngineReport, attach, detach, read_engines, tell, wait_awake


def attach_adapter(revision: Revision, storage: Storage, timeout_s: float) -> None:
    """Return once every replica of the base's engine has loaded the adapter and answered with it. An engine that was scaled to
    zero gets `timeout_s` to come back.

    Raises:
        ConfigError: the engine has no room for it.
        InputError: the adapter's files are not there.
        StageFailed: vLLM does not take it, or the engine does not come back.
    """
    try:
        wait_awake(revision.base, timeout_s)
    except TimeoutError:
        raise StageFailed(
            f"the engine of {revision.base} has no replica, and got none within {timeout_s:g} s"
        ) from None
    held = read_engines(storage, revision.name).order(revision.base).adapters
    check_fits(revision, _rank(revision, storage), tell(revision.base), frozenset(held))
    try:
        reports = attach(storage, revision)
        problems = [report.problems[revision.revision] for report in reports if revision.revision in report.problems]
        if problems:
            raise StageFailed(f"adapter {revision.revision} was not loaded into {revision.base}: {problems[0]}")
    except BaseException:  # Ctrl-C too: it must not hold a place that nobody uses; one that serves users stays
        if revision.revision not in held:
            detach(storage, revision.name, revision.revision)
        raise


def check_fits(revision: Revision, rank: int, reports: tuple[EngineReport, ...], held: frozenset[str]) -> None:
    """Raises ConfigError: no replica runs with room for an adapter of that rank beside those it holds."""
    where = f"engine of {revision.base}"
    for report in reports:
        if report.max_rank is None:
            remedy = (
                "set `lora: {}` under serve.engine in the recipe, then: serinus deploy RECIPE (replaces its replicas)"
            )
            raise ConfigError(where, "was started without room for adapters", remedy)
        if rank > report.max_rank:
            remedy = f"raise serve.engine.lora.max_rank to {rank} or more, then: serinus deploy RECIPE"
            found = f"takes adapters of rank {report.max_rank} at most, {revision.revision} has {rank}"
            raise ConfigError(where, found, remedy)
        if len(held | {revision.revision}) > report.max_adapters:
            remedy = "raise serve.engine.lora.max_adapters, then: serinus deploy RECIPE; or lower serve.keep_revisions"
            raise ConfigError(where, f"is full: it holds {', '.join(sorted(held))}", remedy)


def check_room(revision: Revision, engine: EngineConfig, storage: Storage) -> None:
    """Raises ConfigError: an engine started like this would lose adapters that users are on."""
    held = read_engines(storage, revision.name).order(revision.revision).adapters
    if held and engine.lora is None:
        remedy = "keep `lora: {}` under serve.engine, or let a revision that is no adapter become stable first"
        raise ConfigError("serve.engine.lora", f"not set, but {', '.join(sorted(held))} run in this engine", remedy)


def _rank(revision: Revision, storage: Storage) -> int:
    """The adapter's largest rank, which is what vLLM compares."""
    key = f"{revision.adapter}/adapter_config.json"
    blob = storage.read(key)
    if blob is None:
        raise InputError(f"{storage.uri}/{key}", "no such file", "publish the adapter again")
    config = json.loads(blob.content)
    return int(max([config["r"], *(config.get("rank_pattern") or {}).values()]))
