"""A revision's Serve application, as those see it who deploy it: without vLLM, whose import takes a quarter of a minute.

What Serve starts is ModelReplica; it brings vLLM in where it runs.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

from cluster.arithmetic import settled
from cluster.artifacts import Revision
from cluster.imports import large_imports
from services.config import ServingConfig
from services.contract import MODEL_DEPLOYMENT
from services.serving.engine import autoscaling, bundles, engine_arguments, engine_of, environment, tracing_environment
from services.serving.hops import REPLICA_ENVIRONMENT

DRAIN_TIMEOUT_S = 60
"""Requests in flight on a removed revision get so long to end."""
UNBOUNDED = 10**9
"""vLLM queues by itself what it has no room for, and the gateway bounds how many wait."""


class ModelReplica:
    """One replica of a revision. All it can do is its server's (`model_server.RevisionServer`)."""

    async def __init__(self, fields: dict[str, Any], bound: dict[str, Any]) -> None:  # type: ignore[misc]  # awaited by Serve
        with large_imports():
            from ray.serve.llm import LLMConfig

            from services.serving.model_server import OwnWeights

        arguments, on_gpu = fields["engine_kwargs"], fields["accelerator_config"]["kind"] == "gpu"
        fields = {**fields, "engine_kwargs": {**arguments, "dtype": settled(arguments["dtype"], on_gpu)}}
        config = LLMConfig.model_validate({**fields, "callback_config": {"callback_class": OwnWeights}})
        server = self.server_class()
        self._server = server.__new__(server)
        await self._server.__init__(config, **bound)

    def server_class(self) -> Any:
        from services.serving.model_server import RevisionServer

        return RevisionServer

    async def chat(self, request: Any, info: Any = None) -> AsyncIterator[Any]:
        answer: AsyncIterator[Any] = await self._server.chat(request, info)
        return answer

    async def completions(self, request: Any, info: Any = None) -> AsyncIterator[Any]:
        answer: AsyncIterator[Any] = await self._server.completions(request, info)
        return answer

    async def embeddings(self, request: Any, info: Any = None) -> AsyncIterator[Any]:
        answer: AsyncIterator[Any] = await self._server.embeddings(request, info)
        return answer

    async def settings(self) -> str:
        """Digest of what this replica was deployed with."""
        digest: str = await self._server.settings()
        return digest

    async def follow_order(self) -> dict[str, Any]:
        """Do what is asked of this engine now (`services.engines`); returns an EngineReport."""
        report: dict[str, Any] = await self._server.follow_order()
        return report

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Asked by Serve, for autoscaling.Policy."""
        stats: dict[str, float] = await self._server.record_autoscaling_stats()
        return stats

    async def pid(self) -> int:
        """For operators (and tests) who want to end exactly this process."""
        return os.getpid()

    async def check_health(self) -> None:
        """Asked by Serve, which replaces a replica that raises."""
        await self._server.check_health()

    async def record_routing_stats(self) -> dict[str, Any]:
        """Asked by Serve, for its request routers."""
        stats: dict[str, Any] = await self._server.record_routing_stats()
        return stats


def build(
    revision: Revision,
    serving: ServingConfig,
    storage_uri: str,
    selector: dict[str, str],
    settings: str,
    *,
    present: int = 0,
    replica: type[ModelReplica] | None = None,
) -> Any:
    """The application. `selector` picks the pool's nodes by label (empty: any node); of an update, `present` is the number of
    replicas that run now; `replica` is for tests and benchmarks."""
    from ray import serve

    engine = engine_of(revision, serving)
    variables = environment(engine) | REPLICA_ENVIRONMENT | tracing_environment(serving.tracing)
    fields = {
        "model_loading_config": {"model_id": revision.revision},
        "accelerator_config": {"kind": "gpu" if engine.num_gpus else "cpu"},
        "placement_group_config": {"bundles": bundles(engine)},
        "engine_kwargs": engine_arguments(engine, revision.kv_cache, serving.tracing),
        "experimental_configs": {"stream_batching_interval_ms": 0},  # Ray's own default holds chunks back for 50 ms
        "runtime_env": {"env_vars": variables},
    }
    options: dict[str, Any] = {
        "name": MODEL_DEPLOYMENT,
        "ray_actor_options": {"num_cpus": 0, "runtime_env": fields["runtime_env"]},
        "placement_group_bundles": bundles(engine),
        "placement_group_strategy": "PACK",
        "autoscaling_config": autoscaling(engine, serving.replicas, present),
        "max_ongoing_requests": UNBOUNDED,
        "max_surge_percent": serving.replicas.surge_percent,
        "max_constructor_retry_count": 1,  # a revision that cannot load is an answer: do not spend minutes on more
        "health_check_period_s": 5,
        "health_check_timeout_s": 10,
        "graceful_shutdown_timeout_s": DRAIN_TIMEOUT_S,
    }
    if selector:
        options["placement_group_bundle_label_selector"] = [selector]
    bound = {"storage_uri": storage_uri, "revision": revision, "settings": settings}
    bound |= {"max_replicas": serving.replicas.max}
    deployment: Any = serve.deployment(replica or ModelReplica, **options)
    return deployment.bind(fields, bound)
