"""What serving asks of its pool while a rollout is under way. Pure."""

from __future__ import annotations

from cluster.demand import GIB, Demand
from services.config import EngineConfig, ServingConfig

LIVE = 2
"""Stable and canary."""


def demands(
    serving: ServingConfig, num_parameters: int | None = None, bytes_per_weight: float = 1
) -> tuple[Demand, ...]:
    """Replicas at their least for every revision that runs during a rollout, and one revision's at their most.

    Args:
        bytes_per_weight: of the largest scheme that may be served.
    """
    engine, replicas = serving.engine, serving.replicas
    spans = engine.tensor_parallel_size
    share = (num_parameters or 0) * bytes_per_weight / spans
    worker = Demand(
        field="serve.replicas.min",
        stage="serve",
        pool=serving.pool,
        cpus=engine.num_cpus / spans,
        gpus=engine.num_gpus / spans,
        gpu_bytes=int(share / engine.gpu_memory_utilization) if engine.num_gpus else 0,
        host_bytes=_in_memory(engine, share) if num_parameters and not engine.num_gpus else 0,
        memory_field="serve.engine.num_gpus" if engine.num_gpus else "serve.replicas.min",
    )
    # One is loaded even where none are kept, to see that it answers.
    at_least = max(1, replicas.min) * spans
    revisions = LIVE + serving.keep_revisions
    return (
        worker.replace(count=at_least * revisions),
        worker.replace(
            field="serve.replicas.max",
            count=max(1, replicas.max) * spans,
            gpu_bytes=0,
            memory_field="serve.replicas.max",
        ),
    )


def _in_memory(engine: EngineConfig, weights: float) -> int:
    """Of a replica on CPUs: its weights and the cache that it takes at its start."""
    return int(weights + engine.kv_cache_gib * GIB)
