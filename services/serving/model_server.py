"""A revision's server: vLLM behind ray.serve.llm, answering under the revision's id.

Imported only where one runs (`model_app`): ray.serve.llm pulls in vLLM and transformers.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ray import serve
from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.serve.llm import LLMConfig
from ray.serve.llm.deployment import LLMServer
from ray.serve.llm.openai_api_models import CompletionRequest

from cluster.artifacts import Revision
from cluster.node_cache import local_copy
from cluster.storage import open_storage
from services.engines import EngineReport, Order, read_engines
from services.serving import serve_log
from services.serving.adapters import Adapters
from services.serving.autoscaling import Load
from services.serving.rest import Sleeper
from services.serving.tracing import quiet

WARM_UP_TOKENS = 4


class OwnWeights(CallbackBase):
    """Skips Ray's download step: the weights are ours and in place, and it would import vLLM in one process more."""

    async def on_before_node_init(self) -> None:
        self.ctx.run_init_node = False


class Loads:
    """What vLLM's schedulers told last; takes the place of one of vLLM's own statistics loggers."""

    def __init__(self) -> None:
        self._told: dict[int, Load] = {}

    def record(self, scheduler_stats: Any, iteration_stats: Any, engine_idx: int = 0, **_: Any) -> None:
        if scheduler_stats is not None:
            waiting = scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs
            self._told[engine_idx] = Load(scheduler_stats.num_running_reqs, waiting, scheduler_stats.kv_cache_usage)

    def log(self) -> None:
        """Nothing to print."""

    def record_sleep_state(self, *_: Any) -> None:
        """Nothing to note."""

    @property
    def load(self) -> Load:
        """Of all schedulers of this replica together; the fullest cache counts."""
        told = list(self._told.values())
        running, waiting = sum(one.running for one in told), sum(one.waiting for one in told)
        return Load(running, waiting, max((one.cache for one in told), default=0.0))


class WatchedEngine(VLLMEngine):
    """Tells its load. A CPU engine of one worker runs it in the engine's own process: one process less to start and to keep in
    memory (Ray insists on vLLM's multiprocessing executor on CPUs, which vLLM needs only to pin threads; ours are not pinned).
    """

    def _start_async_llm_engine(self, vllm_engine_args: Any, vllm_engine_config: Any, placement_group: Any) -> Any:
        on_cpu = self.llm_config.accelerator_config.kind == "cpu"
        if on_cpu and vllm_engine_config.parallel_config.world_size == 1:
            vllm_engine_config.parallel_config.distributed_executor_backend = "uni"
        client = super()._start_async_llm_engine(vllm_engine_args, vllm_engine_config, placement_group)
        self.loads = Loads()
        if client.logger_manager is not None:  # None with disable_log_stats: requests in flight alone scale then
            client.logger_manager.stat_loggers.append(self.loads)
        return client

    def busy(self) -> bool:
        """Whether any request is under way."""
        return bool(self._engine_client.output_processor.has_unfinished_requests())

    def load(self) -> Load:
        """What vLLM is busy with now. A scheduler without work tells nothing any more, and what it told last may be of its work."""
        return self.loads.load if self.busy() else Load()


class VllmAdapters:
    """Adapters in vLLM, under their revisions' names."""

    def __init__(self, engine: VLLMEngine) -> None:
        self._models: Any = engine._oai_models
        self._client: Any = engine._engine_client

    async def load(self, name: str, folder: str) -> None:
        """Raises RuntimeError: vLLM refuses it."""
        from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest

        answer = await self._models.load_lora_adapter(LoadLoRAAdapterRequest(lora_name=name, lora_path=folder))
        if hasattr(answer, "error"):
            raise RuntimeError(answer.error.message)

    async def unload(self, name: str) -> None:
        """Requests under way with it end as they would have: vLLM loads it once more for them."""
        request = self._models.lora_requests.pop(name, None)
        if request is not None:
            await self._client.remove_lora(request.lora_int_id)


class RevisionServer(LLMServer):
    """Loads the revision's weights from storage and takes requests only once it has answered some itself."""

    async def __init__(  # type: ignore[misc]  # its replica awaits it
        self, llm_config: LLMConfig, storage_uri: str, revision: Revision, settings: str, max_replicas: int
    ) -> None:
        serve_log.hold()
        quiet()  # vLLM's exporter of traces; that a collector is away is said by the gateways
        self._order, self._max_replicas = Order(), max_replicas
        self._settings, self._revision, self._storage = settings, revision, open_storage(storage_uri)
        folder = await asyncio.to_thread(local_copy, self._storage, revision.weights)
        engine: Any = llm_config.get_engine_config()
        engine.hf_model_id = str(folder)  # the configuration was made where we deployed, before there was a folder
        await super().__init__(llm_config, engine_cls=WatchedEngine)
        await self._warm_up(revision.revision)
        self._adapters = Adapters(VllmAdapters(self.engine), self._storage, self._warm_up)
        self._sleeper = Sleeper(self.engine)
        await self.follow_order()

    async def follow_order(self) -> dict[str, Any]:
        """Do what is asked of this engine (`services.engines`), as far as it is not done; returns an EngineReport."""
        engines = await asyncio.to_thread(read_engines, self._storage, self._revision.name)
        self._order = engines.order(self._revision.revision)
        await self._adapters.match(self._order.adapters)
        if self._order.resting_since is None:
            await self._sleeper.wake()
        elif self._llm_config.engine_kwargs.get("enable_sleep_mode"):
            self._sleeper.rest()
        return self._report().model_dump()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """For autoscaling.Policy: what the engine is busy with, and what is asked of it."""
        load = self.engine.load()
        told = {"running": load.running, "waiting": load.waiting, "cache": load.cache}
        return {**told, "floor": float(self._order.floor), "rest": float(self._order.resting_since is not None)}

    def _report(self) -> EngineReport:
        room = self._llm_config.engine_kwargs
        return EngineReport(
            replica=serve.get_replica_context().replica_id.unique_id,
            max_rank=room["max_lora_rank"] if room.get("enable_lora") else None,
            max_adapters=room.get("max_loras", 0),
            adapters=tuple(sorted(self._adapters.loaded)),
            problems=self._adapters.problems,
            max_replicas=self._max_replicas,
            asleep=self._sleeper.asleep,
        )

    async def _run_request(self, request: Any, **options: Any) -> Any:
        """A request for an adapter that this replica has not been told of yet lets it look; any request wakes it."""
        await self._sleeper.wake()
        known = {self._revision.revision, *self._adapters.loaded}
        if request.model not in known and self._llm_config.engine_kwargs.get("enable_lora"):
            await self.follow_order()
        return await super()._run_request(request, **options)

    async def settings(self) -> str:
        """Digest of what this server was deployed with, asked for before deploying it again."""
        return self._settings

    async def _warm_up(self, model: str) -> None:
        """Two requests at once: the first ones compile samplers, which users should not wait for.

        Raises:
            RuntimeError: the engine answers with an error.
        """
        await asyncio.gather(self._ask(model, 0.0), self._ask(model, 1.0))

    async def _ask(self, model: str, temperature: float) -> None:
        fields = {"model": model, "prompt": "Hello", "max_tokens": WARM_UP_TOKENS, "temperature": temperature}
        request = CompletionRequest.model_validate(fields)
        async for answer in await super()._run_request(request, engine_method="completions"):
            if hasattr(answer, "error"):
                raise RuntimeError(f"the warm-up request failed: {answer.error.message}")
