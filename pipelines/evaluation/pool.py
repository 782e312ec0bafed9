"""Items through engines on the pool: actors that live as long as these take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cluster.artifacts import Speed
from cluster.errors import InputError, ProcessDied, ResourceError, StageFailed
from cluster.node_loss import outliving_its_node
from cluster.pools import on_pool
from cluster.session import KEEP_MEMORY
from pipelines.config import EvaluateConfig
from pipelines.evaluation.engine import Dtype, EngineKind, EngineSettings, Scorer
from pipelines.evaluation.items import Item, Row
from pipelines.evaluation.reference import Reference
from pipelines.evaluation.sharing import Sharing, side_by_side
from pipelines.offline_engine import ENVIRONMENT
from pipelines.progress import Bar, bar, say

POLL_S = 0.5


def answers(config: EvaluateConfig, engine: EngineSettings, items: Sequence[Item]) -> tuple[list[Row], Speed | None]:
    """All items through the recipe's engines side by side, each in an actor that is killed at the end: that frees its memory. Then,
    where it is asked for, how fast vLLM is, with one engine alone.

    Those that find no room yet take nothing. The items of one whose machine is lost go to the others, or to the one that is started
    in its place.
    """
    engines = _Engines(config, engine, Sharing(items, config.num_engines))
    with bar("evaluate", len(items), "items") as shown:
        try:
            rows = side_by_side(engines.sharing, engines.outlive, shown)
            measured = config.speed and engine.kind == "vllm"
            return rows, _speed(engines.last, shown, len(rows)) if measured and engines.last else None
        finally:
            engines.end()


class _Engines:
    """Actors of threads, and the one that answered last."""

    def __init__(self, config: EvaluateConfig, engine: EngineSettings, sharing: Sharing) -> None:
        self.config, self.engine, self.sharing = config, engine, sharing
        self.last: Any = None

    def outlive(self) -> None:
        """One engine, and the next one in its place if its machine is lost."""
        pool, done = self.config.pool, self.sharing.over
        outliving_its_node("evaluate", pool, self._answer, num_gpus=self.config.num_gpus, done=done)

    def _answer(self) -> None:
        import ray

        self.sharing.check()
        actor, is_last = _engine_actor(self.config, self.engine), False
        try:
            _wait(actor.start.remote(self.engine), self.sharing.check)
            with self.sharing.engine() as num:
                if self.config.num_engines > 1:
                    say("evaluate", f"an engine has started: {num} of {self.config.num_engines} answer")
                is_last = self.sharing.answer(lambda items: _wait(actor.answer.remote(items), self.sharing.check))
        finally:
            if is_last:
                self.last = actor
            else:
                ray.kill(actor)

    def end(self) -> None:
        """All others have."""
        if self.last is not None:
            import ray

            ray.kill(self.last)


def _engine_actor(config: EvaluateConfig, engine: EngineSettings) -> Any:
    import ray

    return (
        ray.remote(Reference if engine.kind == "transformers" else Scorer)
        .options(
            num_cpus=0.5,  # bookkeeping: the engine uses the node's cores, and nothing else runs in this stage
            num_gpus=config.num_gpus,
            label_selector=on_pool(config.pool),
            # On CPUs each computes on all of its machine's cores.
            scheduling_strategy="DEFAULT" if config.num_gpus else "SPREAD",
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
    return _wait(reference, lambda: shown.update(completed, figures))


def _wait(reference: Any, meanwhile: Callable[[], None]) -> Any:
    """As `wait`; `meanwhile` is called again and again, and may raise."""
    import ray
    from ray.exceptions import ObjectLostError, OutOfMemoryError, RayActorError, RayTaskError

    try:
        while not ray.wait([reference], timeout=POLL_S)[0]:
            meanwhile()
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
