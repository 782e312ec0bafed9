"""A passed gate and its weights become an immutable revision under the alias `candidate`."""

from __future__ import annotations

from typing import Any

from cluster import artifacts, registry
from cluster.artifacts import Adapter, GateReport, QuantizedModel, Revision
from cluster.errors import GateFailed
from cluster.storage import Storage
from pipelines.progress import say


def check_passed(name: str, gate: GateReport, storage: Storage) -> None:
    """Raises GateFailed if the gate does not let the model through; the message names each must that was not passed."""
    if not gate.passed:
        missed = "\n".join(f"  - {one.message}" for one in gate.missed)
        says = "says no" if gate.outcome == "failed" else "cannot say"
        where = f"{storage.uri}/{gate.location}/manifest.json"
        raise GateFailed(
            f"{name} is not published: the gate {says}\n{missed}\n  in words: serinus gate explain {where}"
        )


def publish_candidate(name: str, weights: QuantizedModel, gate: GateReport, storage: Storage) -> Revision:
    """Publish `weights` and point the alias `candidate` at them.

    Raises:
        GateFailed: the gate did not pass.
    """
    check_passed(name, gate, storage)
    return _publish(name, weights, {"weights": weights.digest, "gate": gate.digest}, "candidate", storage)


def publish_baseline(name: str, weights: QuantizedModel, storage: Storage) -> Revision:
    """Publish the quantized base model, which no gate has judged, and point the alias `stable` at it if nothing is there."""
    return _publish(name, weights, {"weights": weights.digest}, "stable", storage)


def publish_adapter(base: Revision, adapter: Adapter, storage: Storage) -> Revision:
    """Publish `adapter` on `base`, which no gate has judged, and point the alias `candidate` at it."""
    inputs = {"adapter": adapter.digest, "base": base.digest}
    fields = {"weights": base.weights, "base": base.revision, "adapter": adapter.folder, "engine": base.engine}
    return _publish_as("candidate", base.name, inputs, {**fields, "config": _cache(base)}, storage)


def _publish(name: str, weights: QuantizedModel, inputs: dict[str, str], alias: str, storage: Storage) -> Revision:
    fields = {"weights": weights.folder, "baseline": alias == "stable", "config": _cache(weights)}
    return _publish_as(alias, name, inputs, fields, storage)


def _cache(of: QuantizedModel | Revision) -> dict[str, str]:
    """Among the settings; nothing where the cache is not quantized: what is published then has the key of earlier versions."""
    return {"kv_cache": of.kv_cache} if of.kv_cache else {}


def _publish_as(alias: str, name: str, inputs: dict[str, str], fields: dict[str, Any], storage: Storage) -> Revision:
    baseline = alias == "stable"
    config: dict[str, Any] = {"name": name, "baseline": baseline, **fields["config"]}
    key = artifacts.stage_key("publish", config, inputs)
    fields = {**fields, "key": key, "inputs": inputs, "config": config, "name": name}
    made = Revision.model_validate({**fields, "revision": f"{name}-{key[:8]}"})
    revision = registry.publish_revision(storage, made)
    # Once only: what was a candidate and then promoted or rolled back does not become one again by running the recipe.
    if all(move.new != revision.revision for move in registry.alias_history(storage, name)):
        expect = None if baseline else "*"  # a baseline never replaces what is stable
        registry.move_alias(storage, name, alias, revision.revision, expect=expect, who="serinus", why="published")
        say("publish", f"{revision.revision} is {alias}")
    else:
        say("publish", f"{revision.revision} was published before")
    return revision
