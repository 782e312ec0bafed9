"""What a lifecycle asks of the pools, stage by stage. Pure: the figures are those that the stages reserve."""

from __future__ import annotations

from cluster.demand import GIB, Demand
from pipelines.config import GrpoConfig, LifecycleConfig, TrainConfig
from pipelines.training.zero3 import host_bytes, state_bytes

WEIGHT_BYTES = 2
"""bfloat16, in which base and trained models are evaluated."""
ENGINE_CPUS = QUANTIZE_CPUS = 0.5
"""Bookkeeping of pipelines/evaluation and pipelines/quantization."""


def demands(recipe: LifecycleConfig, num_parameters: int | None = None) -> tuple[Demand, ...]:
    """In the order of the stages, of each the pool that it is named after first; gate and publish aside, which run in the driver.

    Args:
        num_parameters: of the base model; None leaves memory out.
    """
    train, evaluate, quantize = recipe.train, recipe.evaluate, recipe.quantize
    weights = WEIGHT_BYTES * (num_parameters or 0)
    cache = int(evaluate.kv_cache_gib * GIB) if num_parameters else 0
    engine = Demand(
        field="evaluate.num_engines" if evaluate.num_engines > 1 else "evaluate.num_gpus",
        stage="evaluate",
        pool=evaluate.pool,
        count=evaluate.num_engines,
        cpus=ENGINE_CPUS,
        gpus=evaluate.num_gpus,
        gpu_bytes=weights // max(evaluate.num_gpus, 1),
        host_bytes=0 if evaluate.num_gpus else weights + cache,
        memory_field="evaluate.num_gpus" if evaluate.num_gpus else "",
    )
    return (
        Demand(field="data.pool", stage="clean", pool=recipe.data.pool, cpus=1),
        Demand(
            field="train.num_workers",
            stage="train",
            pool=train.pool,
            count=train.num_workers,
            cpus=train.cpus_per_worker,
            gpus=train.gpus_per_worker,
            gpu_bytes=_per_rank(num_parameters or 0, train),
            host_bytes=host_bytes(num_parameters or 0, train) // train.num_workers,
            memory_field="train.zero",
        ),
        *_rollouts(train, weights),
        Demand(field="data.pool", stage="train", pool="data", cpus=1),  # tokenising
        engine,
        Demand(
            field="quantize.num_gpus",
            stage="quantize",
            pool=quantize.pool,
            cpus=QUANTIZE_CPUS,
            gpus=quantize.num_gpus,
        ),
        engine.replace(stage="quantize"),
    )


def _rollouts(train: TrainConfig, weights: int) -> tuple[Demand, ...]:
    """Engines beside the workers; on CPUs they reserve nothing, for they take turns."""
    if not isinstance(train.method, GrpoConfig) or not train.method.rollouts.gpus_per_engine:
        return ()
    where = train.method.rollouts
    engines = Demand(
        field="train.method.rollouts",
        stage="train",
        pool=where.pool,
        count=where.num_engines,
        gpus=where.gpus_per_engine,
        gpu_bytes=weights // where.gpus_per_engine,
    )
    return (engines,)


def _per_rank(num_parameters: int, train: TrainConfig) -> int:
    """Bytes of model states on each rank's GPU, activations aside."""
    on_gpus = state_bytes(num_parameters, train) - host_bytes(num_parameters, train)
    return on_gpus // train.num_workers // max(train.gpus_per_worker, 1)
