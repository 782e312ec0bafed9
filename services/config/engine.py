"""The engine of a revision and how many replicas of it run."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from cluster.config import StrictModel

LoraRank = Literal[8, 16, 32, 64, 128, 256, 320, 512]
"""Ranks that vLLM has kernels for; an adapter of another rank takes the next larger one."""


JUDGED = frozenset({"kv_cache_dtype", "kv_cache_dtype_skip_layers", "calculate_kv_scales"})
"""vLLM's settings of how keys and values are kept: a revision is served with its cache as the gate judged it."""


class LoraConfig(StrictModel):
    """Room for LoRA adapters beside the weights, set aside when the engine starts."""

    max_rank: LoraRank = 16
    """Largest rank of an adapter; memory for it is set aside whatever the adapters' own rank is."""
    max_adapters: int = Field(4, ge=1)
    """Adapters loaded at once: stable's, a canary's, and replaced ones that are kept."""


class EngineConfig(StrictModel):
    """One vLLM engine."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    """What vLLM computes in. `auto`: bfloat16, or float32 on a CPU that has no instructions for bfloat16."""
    max_model_len: int = Field(2048, ge=16)
    """Tokens of prompt and answer together."""
    max_num_seqs: int = Field(64, ge=1)
    """Sequences decoded at once."""
    tensor_parallel_size: int = Field(1, ge=1)
    """GPUs an engine spans."""
    num_gpus: int = Field(0, ge=0)
    """GPUs a replica reserves; 0 runs vLLM on CPUs."""
    num_cpus: float = Field(0.5, gt=0)
    """CPUs a replica reserves in Ray's bookkeeping."""
    enforce_eager: bool = False
    """Skip graph capture: faster to start, slower to run."""
    kv_cache_gib: float = Field(1.0, gt=0)
    """KV cache of a CPU engine, in GiB. GPU engines use gpu_memory_utilization."""
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)
    lora: LoraConfig | None = None
    """Room for adapters (`lora: {}` for the defaults). Without it no adapter can be a canary on this engine; answers without an
    adapter get a little slower with it."""
    sleep_mode: bool = False
    """GPUs only: a revision at rest moves its weights to the host's memory and gives the cache's memory back."""
    extra: dict[str, Any] = {}
    """Further vLLM engine arguments, passed as they are; none that says how the KV cache is stored (`quantize.kv_cache` does). A
    `worker_extension_cls` for CPUs imports cluster.vllm_worker, in whose place it comes."""

    @model_validator(mode="after")
    def _keeps_the_cache_that_was_judged(self) -> EngineConfig:
        if found := sorted(JUDGED & self.extra.keys()):
            raise ValueError(f"extra: {found[0]} would serve what no gate has judged: set quantize.kv_cache instead")
        return self

    @model_validator(mode="after")
    def _sleeps_on_gpus(self) -> EngineConfig:
        if self.sleep_mode and not self.num_gpus:
            raise ValueError("sleep_mode needs num_gpus above 0: vLLM ignores it on CPUs")
        return self


class ReplicasConfig(StrictModel):
    """Autoscaling of one revision's replicas. docs/engines.md explains it."""

    min: int = Field(1, ge=0)
    """0 lets an idle revision go without any; its next request waits for one to start."""
    max: int = Field(1, ge=1)
    target_ongoing_requests: int = Field(16, ge=1)
    """Requests in flight per replica that autoscaling aims for."""
    target_cache_fraction: float = Field(0.8, gt=0, le=1)
    """Share of vLLM's KV cache in use that autoscaling aims for. With a full one vLLM throws out running requests, to begin them
    again later."""
    look_back_s: float = Field(30, gt=0)
    """Load is averaged over so long: one burst of requests is no load."""
    upscale_delay_s: float = Field(5, ge=0)
    """After the average asks for more. A replica takes minutes to load: waiting longer only adds to that."""
    downscale_delay_s: float = Field(300, ge=0)
    """After the average asks for fewer: loading weights again costs more than a quiet five minutes."""
    idle_after_s: float = Field(900, ge=0)
    """With `min: 0`: quiet time after which the last replica goes."""
    surge_percent: int = Field(25, ge=0, le=100)
    """Replicas beyond the needed ones (rounded up) that an update may start before it stops old ones: never fewer than needed run.
    0 replaces them in place, where there is no room for one more."""

    @model_validator(mode="after")
    def _ordered(self) -> ReplicasConfig:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is above max ({self.max})")
        return self
