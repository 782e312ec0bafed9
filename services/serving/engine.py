"""From the recipe's engine settings to vLLM's and Ray Serve's. Pure."""

from __future__ import annotations

from typing import Any

from cluster.artifacts import Revision
from cluster.session import CPU_WORKER, HUGE_PAGES
from services.config import EngineConfig, ReplicasConfig, ServingConfig, TracingConfig

POLICY = "services.serving.autoscaling:Policy"
SERVE_METRICS_INTERVAL_S = 10.0
"""How often replicas report unless told otherwise."""
KV_CACHE_DTYPE = "fp8"
"""vLLM's word for E4M3, with the scales that lie beside the weights."""
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "PYTHONFAULTHANDLER": "1",  # an engine that a signal ends leaves its stack in the log, not nothing
}


def engine_of(revision: Revision, serving: ServingConfig) -> EngineConfig:
    """The recipe's engine with what this revision alone changes.

    Raises:
        pydantic.ValidationError: the changes do not fit EngineConfig.
    """
    return serving.engine.replace(**revision.engine)


def engine_arguments(engine: EngineConfig, kv_cache: str, tracing: TracingConfig | None = None) -> dict[str, Any]:
    """vLLM's engine arguments; `extra` has the last word.

    Args:
        kv_cache: the revision's.
    """
    arguments: dict[str, Any] = {
        "dtype": engine.dtype,
        "max_model_len": engine.max_model_len,
        "max_num_seqs": engine.max_num_seqs,
        "tensor_parallel_size": engine.tensor_parallel_size,
        "enforce_eager": engine.enforce_eager,
        "trust_remote_code": False,
        "allowed_media_domains": ["nowhere.invalid"],  # a request must not make the engine fetch addresses (RFC 2606)
        "enable_prompt_tokens_details": True,  # tells what the prefix cache spared, which the evidence needs
    }
    if engine.num_gpus:
        arguments["gpu_memory_utilization"] = engine.gpu_memory_utilization
        arguments["enable_sleep_mode"] = engine.sleep_mode
    else:
        arguments |= {"kv_cache_memory_bytes": int(engine.kv_cache_gib * 2**30), **CPU_WORKER}
    if kv_cache:
        arguments["kv_cache_dtype"] = KV_CACHE_DTYPE  # what cannot be kept so then fails, rather than run otherwise
    if engine.lora:
        arguments |= {
            "enable_lora": True,
            "max_lora_rank": engine.lora.max_rank,
            "max_loras": engine.lora.max_adapters,
        }
    if tracing and not engine.extra.get("disable_log_stats"):  # vLLM's spans tell its statistics: it fails without them
        arguments["otlp_traces_endpoint"] = tracing.traces_address
    return {**arguments, **engine.extra}


def environment(engine: EngineConfig) -> dict[str, str]:
    """The replica's environment. On CPUs vLLM would pin every engine's threads to the same cores, where they would spin."""
    shared_cores = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_WAIT_POLICY": "PASSIVE"}
    return dict(ENVIRONMENT) if engine.num_gpus else {**ENVIRONMENT, **shared_cores, **HUGE_PAGES}


def tracing_environment(tracing: TracingConfig | None) -> dict[str, str]:
    """vLLM's exporter reads these. What no traced request asks for (its start, our warm-up) makes no trace of its own."""
    if tracing is None:
        return {}
    protocol = {"grpc": "grpc", "http": "http/protobuf"}[tracing.protocol]
    return {
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": protocol,
        "OTEL_TRACES_SAMPLER": "parentbased_always_off",
        "OTEL_SERVICE_NAME": "serinus-engine",
    }


def bundles(engine: EngineConfig) -> list[dict[str, float]]:
    """Resources of one replica, one bundle for each of its workers."""
    share = 1 / engine.tensor_parallel_size
    bundle = {"CPU": engine.num_cpus * share}
    if engine.num_gpus:
        bundle["GPU"] = engine.num_gpus * share
    return [dict(bundle) for _ in range(engine.tensor_parallel_size)]


def autoscaling(engine: EngineConfig, replicas: ReplicasConfig, present: int = 0) -> dict[str, Any]:
    """Serve's autoscaling settings. One replica at first even where zero are allowed: a revision is only ready when it has
    answered. Where `present` ones run already it begins with as many: Serve would begin an update with the least number, whatever
    the load. Serve itself is held to one replica (or zero) at least: the policy knows the real floor, and when to go below.
    """
    settings = {
        "lowest": replicas.min,
        "highest": replicas.max,
        "ongoing": replicas.target_ongoing_requests,
        "slots": engine.max_num_seqs,
        "cache": replicas.target_cache_fraction,
    }
    return {
        "min_replicas": min(1, replicas.min),
        "max_replicas": replicas.max,
        "initial_replicas": min(max(1, replicas.min, present), replicas.max),
        "target_ongoing_requests": replicas.target_ongoing_requests,
        "look_back_period_s": replicas.look_back_s,
        "metrics_interval_s": min(SERVE_METRICS_INTERVAL_S, replicas.look_back_s / 3),
        "upscale_delay_s": replicas.upscale_delay_s,
        "downscale_delay_s": replicas.downscale_delay_s,
        "downscale_to_zero_delay_s": replicas.idle_after_s,
        "policy": {"policy_function": POLICY, "policy_kwargs": settings},
    }
