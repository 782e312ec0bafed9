"""Is there room for the run? Asked before it starts, so that nobody waits for what cannot come."""

from __future__ import annotations

import json
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from cluster import pools
from cluster.arithmetic import settled
from cluster.artifacts import Weights
from cluster.demand import ACCELERATOR_LABEL, GPU_MEMORY_GIB
from cluster.errors import ConfigError, InputError, ResourceError
from cluster.storage import LocalStorage, Storage
from pipelines.config import GrpoConfig, TrainConfig
from pipelines.offline_engine import OVERHEAD_BYTES
from pipelines.progress import say
from pipelines.training.plan import GIB, Room, host_room, make_plan, trouble
from pipelines.training.shape import Shape, check_parallel, check_rounding, shape_of
from pipelines.training.zero3 import copy_bytes, disk_bytes, host_bytes

RELEASE_S = 30.0
"""How long the stage before may take to give back its CPUs."""


def check_capacity(config: TrainConfig, base: Weights, storage: Storage, teacher: Weights | None = None) -> None:
    """Refuse a run that cannot work.

    Args:
        teacher: that is held beside the model.

    Raises:
        ResourceError: too few CPUs or GPUs in the pool, clearly too little memory or disk.
        ConfigError: the sequences are longer than the model's positions, or workers cannot hold it together as asked.
    """
    model = _check_positions(config, base, storage)
    if teacher is not None:
        _check_positions(config, teacher, storage, "teacher")
    nodes = _pool_nodes(config.pool)
    if not pools.is_autoscaled() or _slots(config, nodes) >= config.num_workers:  # else there are more nodes to come
        _check_slots(config, nodes)
        _check_engines(config)
        _check_memory(config, base, nodes, _beside_bytes(config, base, teacher))
    # A prediction refuses nothing, and says nothing of a configuration whose fields it does not know.
    with suppress(KeyError, TypeError, ValueError):
        shape = shape_of(model, base.num_parameters)
        check_parallel(shape, config.parallel)
        check_rounding(shape, config.quantization_aware)
        _check_experts(config, shape)
        _warn_of_memory(config, shape, nodes)
    _check_disk(disk_bytes(base.num_parameters, config), storage)


def _check_positions(config: TrainConfig, base: Weights, storage: Storage, what: str = "model") -> dict[str, Any]:
    """The model's config.json, when its positions are enough."""
    blob = storage.read(f"{base.folder}/config.json")
    if blob is None:
        raise InputError(
            f"{storage.uri}/{base.folder}", "has no config.json", "remove the artifact's folder and run again"
        )
    model: dict[str, Any] = json.loads(blob.content)
    text = model.get("text_config", model)
    positions = text.get("max_position_embeddings") or text.get("n_positions")  # the latter in GPT-2 and its kin
    if positions is not None and config.sequence_length > positions:
        raise ConfigError(
            "train.sequence_length",
            f"{config.sequence_length} tokens, but the {what} knows {positions} positions",
            f"set it to {positions} or less",
        )
    return model


def _pool_nodes(pool: str) -> list[dict[str, Any]]:
    import ray

    wanted = pools.on_pool(pool).items()
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return [node for node in nodes if wanted <= node.get("Labels", {}).items()]


def num_slots(free: dict[str, float], config: TrainConfig) -> int:
    """How many workers fit beside each other into a node's free resources."""
    by_cpu = free.get("CPU", 0.0) / config.cpus_per_worker
    by_gpu = free.get("GPU", 0.0) / config.gpus_per_worker if config.gpus_per_worker else by_cpu
    return int(min(by_cpu, by_gpu) + 1e-6)


def _slots(config: TrainConfig, nodes: list[dict[str, Any]]) -> int:
    return sum(num_slots(node["Resources"], config) for node in nodes)


def _check_slots(config: TrainConfig, nodes: list[dict[str, Any]]) -> None:
    total = _slots(config, nodes)
    if total < config.num_workers:
        raise _too_few(config, total, "fit into")
    deadline = time.monotonic() + RELEASE_S
    while (free := sum(num_slots(left, config) for left in _free(nodes))) < config.num_workers:
        if time.monotonic() > deadline:
            raise _too_few(config, free, "are free in")
        time.sleep(1.0)


def _check_experts(config: TrainConfig, shape: Shape) -> None:
    """vLLM 0.29 packs experts for the processor when it starts, and answers wrongly once they are loaded anew."""
    if shape.experts > 1 and isinstance(config.method, GrpoConfig) and not config.method.rollouts.gpus_per_engine:
        found = f"engines on CPUs cannot take the weights of a mixture of experts anew (the model has {shape.experts})"
        raise ConfigError("train.method.rollouts", found, "give them GPUs by gpus_per_engine, or train a dense model")


def _check_engines(config: TrainConfig) -> None:
    """Those that answer on GPUs, beside the workers'."""
    if not isinstance(config.method, GrpoConfig) or not (each := config.method.rollouts.gpus_per_engine):
        return
    where = config.method.rollouts
    gpus = [int(node["Resources"].get("GPU", 0.0)) for node in _pool_nodes(where.pool)]
    left = sum(gpus) - (config.num_workers * config.gpus_per_worker if where.pool == config.pool else 0)
    if left < where.num_engines * each or sum(num // each for num in gpus) < where.num_engines:
        raise ResourceError(
            f"pool {where.pool}",
            f"{where.num_engines} engine(s) of {each} GPU each on one node are asked for; beside the workers' the pool's"
            f" {len(gpus)} node(s) have {max(left, 0)}",
            "lower train.method.rollouts.num_engines or train.num_workers, or add nodes to the pool",
        )


def _free(nodes: list[dict[str, Any]]) -> list[dict[str, float]]:
    from ray._private.state import available_resources_per_node

    per_node = available_resources_per_node()
    return [per_node.get(node["NodeID"], {}) for node in nodes]


def _too_few(config: TrainConfig, slots: int, how: str) -> ResourceError:
    needs = f"{config.cpus_per_worker:g} CPU" + (f" and {config.gpus_per_worker} GPU" if config.gpus_per_worker else "")
    remedy = "lower train.num_workers or train.cpus_per_worker, add nodes to the pool, or stop what else runs on it"
    if config.gpus_per_worker:
        remedy += "; train.gpus_per_worker: 0 trains on CPUs"
    found = f"{config.num_workers} workers of {needs} each are asked for, {slots} {how} the pool's nodes"
    return ResourceError(f"pool {config.pool}", found, remedy)


def _check_memory(config: TrainConfig, base: Weights, nodes: list[dict[str, Any]], beside: int) -> None:
    copy = copy_bytes(base.num_parameters, config)
    needed, available = host_bytes(base.num_parameters, config) + beside + copy, _available_memory(nodes)
    if needed <= available:
        return
    found = "weights, gradients and optimizer, and engines or a teacher beside them"
    remedy = (
        "train a smaller model, use zero.stage 3 with more nodes, lower rollouts.num_engines, or stop what else runs"
    )
    if copy:
        found += f", and the copy of {copy / GIB:.1f} GiB that checkpoints are written from"
        remedy = f"set train.checkpoint_asynchronously: false, {remedy}"
    found = f"{found}, need {needed / GIB:.1f} GiB, {available / GIB:.1f} GiB are available"
    raise ResourceError("memory for training", found, remedy)


def _beside_bytes(config: TrainConfig, base: Weights, teacher: Weights | None) -> int:
    """In the hosts' memory, beside the model: a teacher, all workers' together, and engines that answer."""
    width = 4 if settled(config.precision, on_gpu=config.gpus_per_worker > 0) == "float32" else 2
    num_bytes = 0
    if teacher is not None and not config.gpus_per_worker:
        num_bytes += teacher.num_parameters * width * (1 if config.zero.stage == 3 else config.num_workers)
    where = config.method.rollouts if isinstance(config.method, GrpoConfig) else None
    if where and not where.gpus_per_engine and where.pool == config.pool:
        each = width * base.num_parameters + int(where.kv_cache_gib * GIB) + OVERHEAD_BYTES
        num_bytes += where.num_engines * each
    return num_bytes


def _warn_of_memory(config: TrainConfig, shape: Shape, nodes: list[dict[str, Any]]) -> None:
    """Say it when the states fit, but by the prediction not what comes on top of them. A prediction refuses nothing."""
    if config.gpus_per_worker:
        kinds = {node.get("Labels", {}).get(ACCELERATOR_LABEL) for node in nodes}
        sizes = [GPU_MEMORY_GIB[kind] * GIB for kind in kinds if kind in GPU_MEMORY_GIB]
        room = Room(float(min(sizes)) if sizes else None, "the pool's smallest GPU")
    else:
        room = host_room(config, _available_memory(nodes), "the pool's memory")
    if found := trouble(make_plan(shape, config, room, None)):
        say("train", f"warning: {found[0]}; {found[1]} (`serinus train plan`)")


def _available_memory(nodes: list[dict[str, Any]]) -> float:
    """Bytes: this machine's free memory when the pool is here, else what Ray counts on the pool's nodes."""
    import psutil
    import ray

    here = ray.util.get_node_ip_address()
    if all(node["NodeManagerAddress"] == here or node["NodeManagerAddress"].startswith("127.") for node in nodes):
        return float(psutil.virtual_memory().available)
    return float(sum(node["Resources"].get("memory", 0.0) for node in nodes))


def _check_disk(needed: int, storage: Storage) -> None:
    if not isinstance(storage, LocalStorage):
        return
    Path(storage.root).mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(storage.root).free
    if needed > free:
        raise ResourceError(
            storage.uri,
            f"checkpoints and export need {needed / GIB:.1f} GiB, {free / GIB:.1f} GiB are free",
            "free some space, choose another storage, or lower train.keep_checkpoints",
        )
