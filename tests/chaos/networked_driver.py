"""What the tests of a networked cluster do on its head: `python -m tests.chaos.networked_driver WHAT ...`, in $RAY_ADDRESS."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from cluster import registry
from cluster.artifacts import Revision
from cluster.pools import on_pool
from cluster.session import joined
from cluster.storage import LocalStorage
from cluster.topology import POOL_LABEL
from services.config import ServingConfig
from tests.chaos.networked_world import PORT, SAID
from tests.chaos.serving_world import CONFIG, GATEWAY, NAME, NUM_GATEWAYS, ONE, OTHER, Thinking, of, replicas


def pools() -> dict[str, str]:
    """Node id -> pool, of the living."""
    import ray

    return {str(node["NodeID"]): node["Labels"][POOL_LABEL] for node in ray.nodes() if node["Alive"]}


def serve(folder: str) -> dict[str, Any]:
    """Two revisions with a replica on each serve machine, gateways that listen on all addresses, the rollout's controller."""
    from ray import serve

    from services.contract import MODEL_DEPLOYMENT, application_name
    from services.rollout import controller
    from services.serving import address, app

    storage = LocalStorage(folder)
    for number, revision in enumerate((ONE, OTHER)):
        registry.publish_revision(storage, Revision(key=f"{number:016x}", name=NAME, revision=revision, weights="w"))
    controller.ensure_traffic(storage, NAME, ONE)
    controller.ensure_controller(NAME, storage.uri)
    serving = ServingConfig(host="0.0.0.0", port=PORT, entry="direct", num_gateway_replicas=NUM_GATEWAYS)
    address.listen(serving)
    model: Any = serve.deployment(Thinking, name=MODEL_DEPLOYMENT, max_ongoing_requests=100)
    options = {"ray_actor_options": {"num_cpus": 0, "label_selector": on_pool(serving.pool)}}
    model = model.options(num_replicas=2, max_replicas_per_node=1, graceful_shutdown_timeout_s=1, **options)
    targets = [
        serve.RunTarget(model.bind(revision), name=application_name(revision), route_prefix=None)
        for revision in (ONE, OTHER)
    ]
    serve.run_many(targets, wait_for_applications_running=True)
    app.deploy_gateway(NAME, serving, storage.uri)
    return {"gateways": where(GATEWAY), "models": where(of(ONE)) + where(of(OTHER))}


def where(prefix: str) -> list[str]:
    """Pools of these replicas, one each."""
    found = pools()
    return [found.get(node, "gone") for node in replicas(prefix).values()]


def watch() -> None:
    """A line with the present state, until killed. Rebuilt from what the head holds each time."""
    import ray

    while True:
        alive = sorted(str(node["NodeManagerAddress"]) for node in ray.nodes() if node["Alive"])
        models, gateways = (len(replicas(of(ONE))) + len(replicas(of(OTHER)))), len(replicas(GATEWAY))
        say({"alive": alive, "models": models, "gateways": gateways})
        time.sleep(0.2)


def rollout(folder: str) -> str:
    """Begins one, of the revision that is not stable, whose steps wait longer than a cut lasts; returns its id."""
    from services.contract import read_traffic
    from services.rollout import controller

    storage, patient = LocalStorage(folder), CONFIG.replace(step_timeout_s=300)
    found = read_traffic(storage, NAME)
    candidate = ONE if found and found[0].stable == OTHER else OTHER
    return controller.start_rollout(storage, NAME, candidate, patient, keep_revisions=9, who="test")


def metrics() -> list[str]:
    """Where each node's metrics are."""
    import ray

    return [f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}" for node in ray.nodes() if node["Alive"]]


def clean(folder: str, source: str) -> dict[str, Any]:
    """The clean stage; what it made, and where its tasks ran."""
    from pipelines.config import DataConfig, SourceConfig
    from pipelines.data.clean import clean

    began = time.monotonic()
    made = clean(DataConfig(sources=(SourceConfig(path=source),)), LocalStorage(folder))
    files = sorted((file.path, file.sha256) for file in made.files)
    return {"files": files, "took_s": time.monotonic() - began, "summary": made.summary, "tasks": tasks()}


def train(folder: str, model: str) -> dict[str, Any]:
    """A small run of the train stage; its losses, and where its ranks ran."""
    from pipelines.training.train import train
    from tests.integration.training_case import base_model, chaos_run, small_dataset

    storage, began = LocalStorage(folder), time.monotonic()
    made = train(chaos_run(), small_dataset(storage), base_model(storage, Path(model)), storage)
    losses = [point.loss for point in made.losses]
    return {"losses": losses, "resumed": made.resumed_at_steps, "took_s": time.monotonic() - began, "actors": actors()}


def tasks() -> dict[str, int]:
    """`pool` -> tasks of this job that ran there."""
    import ray
    from ray.util.state import list_tasks

    found, job = pools(), ray.get_runtime_context().get_job_id()
    listed = list_tasks(filters=[("job_id", "=", job), ("type", "=", "NORMAL_TASK")], limit=10_000, detail=True)
    return dict(Counter(found.get(task.node_id, "gone") for task in listed if task.node_id))


def actors() -> dict[str, list[str]]:
    """Class -> pools of this job's actors."""
    import ray
    from ray.util.state import list_actors

    found, job = pools(), ray.get_runtime_context().get_job_id()
    listed = list_actors(filters=[("job_id", "=", job)], limit=10_000, detail=True)
    kinds: dict[str, list[str]] = {}
    for actor in listed:
        kinds.setdefault(actor.class_name, []).append(found.get(actor.node_id, "gone"))
    return kinds


def placed() -> dict[str, list[str]]:
    """Name of a task or class of an actor -> pools where it ran, of all jobs."""
    from ray.util.state import list_actors, list_tasks

    found = pools()
    listed = [(task.name, task.node_id) for task in list_tasks(filters=[("type", "=", "NORMAL_TASK")], limit=10_000)]
    listed += [(actor.class_name, actor.node_id) for actor in list_actors(limit=10_000, detail=True)]
    where: dict[str, set[str]] = {}
    for name, node in listed:
        where.setdefault(name, set()).add(found.get(node, "gone"))
    return {name: sorted(names) for name, names in where.items()}


PROGRAMS: dict[str, Any] = {
    "serve": serve,
    "watch": watch,
    "rollout": rollout,
    "metrics": metrics,
    "clean": clean,
    "train": train,
    "placed": placed,
}


def say(answer: Any) -> None:
    sys.stdout.write(f"{SAID}{json.dumps(answer)}\n")
    sys.stdout.flush()


def main(what: str, *words: str) -> None:
    with joined():
        say(PROGRAMS[what](*words))


if __name__ == "__main__":
    main(*sys.argv[1:])
