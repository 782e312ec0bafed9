"""Items through an engine on the pool: an actor that lives as long as they take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from cluster.artifacts import Speed
from cluster.errors import InputError, ProcessDied, ResourceError, StageFailed
from cluster.node_loss import outliving_its_node
from cluster.session import KEEP_MEMORY, on_pool
from pipelines.config import EvaluateConfig
from pipelines.evaluation.engine import Dtype, EngineKind, EngineSettings, Scorer
from pipelines.evaluation.items import Item, Row
from pipelines.evaluation.reference import Reference
from pipelines.offline_engine import ENVIRONMENT
from pipelines.progress import Bar, bar, say

FIRST_BATCH = 24
"""Items given to the engine at once, at first."""
BATCH_S = 30.0
"""What later ones should take: a GPU is filled and hardly ever waits for a batch's last item, and progress still shows."""
MOST_GROWTH = 8
"""Times, from one batch to the next: the items of another task may be slower."""
POLL_S = 2.0


def answers(config: EvaluateConfig, engine: EngineSettings, items: Sequence[Item]) -> tuple[list[Row], Speed | None]:
    """All items through one engine, in an actor that is killed at the end: that frees its memory. Then, where it is asked for,
    how fast vLLM is. If its machine is lost, an engine on another one goes on with the items that are left."""
    rows: list[Row] = []
    with bar("evaluate", len(items), "items") as shown:
        return outliving_its_node(
            "evaluate", config.pool, lambda: _answered(config, engine, items, rows, shown), num_gpus=config.num_gpus
        )


def _answered(
    config: EvaluateConfig, engine: EngineSettings, items: Sequence[Item], rows: list[Row], shown: Bar
) -> tuple[list[Row], Speed | None]:
    """Adds to `rows`, of which one stands for each item that is answered."""
    import ray

    actor = _engine_actor(config, engine)
    try:
        wait(actor.start.remote(engine), shown, len(rows), "starting the engine")
        size = FIRST_BATCH
        while batch := items[len(rows) : len(rows) + size]:
            began = time.monotonic()
            rows += wait(actor.answer.remote(batch), shown, len(rows), batch[0].task)
            size = next_size(len(batch), time.monotonic() - began)
            shown.update(len(rows), batch[0].task)
        speed = _speed(actor, shown, len(rows)) if config.speed and engine.kind == "vllm" else None
    finally:
        ray.kill(actor)
    return rows, speed


def _engine_actor(config: EvaluateConfig, engine: EngineSettings) -> Any:
    import ray

    return (
        ray.remote(Reference if engine.kind == "transformers" else Scorer)
        .options(
            num_cpus=0.5,  # bookkeeping: the engine uses the node's cores, and nothing else runs in this stage
            num_gpus=config.num_gpus,
            label_selector=on_pool(config.pool),
            runtime_env={"env_vars": {**ENVIRONMENT, **({} if config.num_gpus else KEEP_MEMORY)}},
        )
        .remote()
    )


def _speed(actor: Any, shown: Bar, completed: int) -> Speed | None:
    """None where the engine breaks off at it: what it has answered stands."""
    try:
        found: Speed = wait(actor.speed.remote(), shown, completed, "measuring the engine's speed")
    except (StageFailed, ResourceError) as error:
        say("evaluate", f"warning: the engine's speed is not known: {str(error).splitlines()[0]}")
        return None
    return found


def next_size(num_items: int, took_s: float) -> int:
    """Items of the next batch, when the last one of `num_items` took `took_s`."""
    return max(1, min(int(num_items * BATCH_S / max(took_s, 1e-3)), MOST_GROWTH * num_items))


def engine_settings(
    config: EvaluateConfig,
    storage_uri: str,
    folder: str,
    *,
    num_weight_bytes: int,
    kind: EngineKind = "vllm",
    dtype: Dtype = "auto",
) -> EngineSettings:
    """What the recipe's pool gives an engine."""
    return EngineSettings(
        storage_uri=storage_uri,
        model_folder=folder,
        max_model_len=config.max_model_len,
        num_gpus=config.num_gpus,
        kv_cache_gib=config.kv_cache_gib,
        seed=config.seed,
        num_weight_bytes=num_weight_bytes,
        kind=kind,
        dtype=dtype,
    )


def wait(reference: Any, shown: Bar, completed: int, figures: str) -> Any:
    """The result, with a sign of life meanwhile. Errors meant for people come through as they were raised."""
    import ray
    from ray.exceptions import ObjectLostError, OutOfMemoryError, RayActorError, RayTaskError

    try:
        while not ray.wait([reference], timeout=POLL_S)[0]:
            shown.update(completed, figures)
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, InputError | ResourceError):
            raise error.cause from None
        raise StageFailed(f"evaluate: the engine broke off: {error.cause!r}") from error
    except (OutOfMemoryError, RayActorError, ObjectLostError) as error:
        raise (ResourceError if isinstance(error, OutOfMemoryError) else ProcessDied)(
            "evaluate",
            f"the engine's process died ({str(error).splitlines()[0]})",
            "most often memory ran out: stop other work on that machine or lower evaluate.kv_cache_gib",
        ) from None
