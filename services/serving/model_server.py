"""A revision's server: vLLM behind ray.serve.llm, answering under the revision's id.

Imported only where one runs (`model_app`): ray.serve.llm pulls in vLLM and transformers.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.llm._internal.serve.core.protocol import RawRequestInfo
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.serve.llm import LLMConfig
from ray.serve.llm.deployment import LLMServer
from ray.serve.llm.openai_api_models import CompletionRequest

from cluster.storage import local_copy, open_storage

WARM_UP_TOKENS = 4


class OwnWeights(CallbackBase):
    """Skips Ray's download step: the weights are ours and in place, and it would import vLLM in one process more."""

    async def on_before_node_init(self) -> None:
        self.ctx.run_init_node = False


class OneWorkerEngine(VLLMEngine):
    """A CPU engine of one worker runs it in the engine's own process: one process less to start and to keep in memory.

    Ray insists on vLLM's multiprocessing executor on CPUs, which vLLM needs only to pin threads; ours are not pinned.
    """

    def _start_async_llm_engine(self, vllm_engine_args: Any, vllm_engine_config: Any, placement_group: Any) -> Any:
        if vllm_engine_config.parallel_config.world_size == 1:
            vllm_engine_config.parallel_config.distributed_executor_backend = "uni"
        return super()._start_async_llm_engine(vllm_engine_args, vllm_engine_config, placement_group)


class RevisionServer(LLMServer):
    """Loads the revision's weights from storage and takes requests only once it has answered some itself."""

    async def __init__(  # type: ignore[misc]  # its replica awaits it
        self, llm_config: LLMConfig, storage_uri: str, weights: str, settings: str
    ) -> None:
        self._settings = settings
        folder = await asyncio.to_thread(local_copy, open_storage(storage_uri), weights)
        engine: Any = llm_config.get_engine_config()
        engine.hf_model_id = str(folder)  # the configuration was made where we deployed, before there was a folder
        one_worker = llm_config.accelerator_config.kind == "cpu"
        await super().__init__(llm_config, engine_cls=OneWorkerEngine if one_worker else None)
        await self._warm_up(llm_config.model_id)

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
        async for answer in await self.completions(request, RawRequestInfo()):
            if hasattr(answer, "error"):
                raise RuntimeError(f"the warm-up request failed: {answer.error.message}")
