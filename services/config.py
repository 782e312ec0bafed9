"""Settings of what runs: the engine, the gateway, the rollout. No heavy imports here."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from cluster.config import Location, StrictModel


class EngineConfig(StrictModel):
    """One vLLM engine."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "bfloat16"
    max_model_len: int = Field(2048, ge=64)
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
    extra: dict[str, Any] = {}
    """Further vLLM engine arguments, passed as they are."""


class ReplicasConfig(StrictModel):
    """Autoscaling of one revision's replicas."""

    min: int = Field(1, ge=0)
    max: int = Field(1, ge=1)
    target_ongoing_requests: int = Field(16, ge=1)
    """Requests in flight per replica that autoscaling aims for."""

    @model_validator(mode="after")
    def _ordered(self) -> ReplicasConfig:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is above max ({self.max})")
        return self


class AdmissionConfig(StrictModel):
    """Who may ask the gateway, and how much."""

    keys: Location | None = None
    """YAML file of API keys (`serinus keys add NAME`). Without one the gateway is open to whoever reaches it."""
    max_body_bytes: int = Field(8 * 2**20, ge=1024)
    """A request's body beyond it is refused (413) while it streams in."""
    max_output_tokens: int | None = Field(None, ge=1)
    """A request for more is refused, one that names no maximum gets this one. None: the engine's max_model_len alone."""
    max_choices: int = Field(16, ge=1)
    """Largest `n` of a request."""
    max_waiting_requests: int = Field(256, ge=1)
    """Requests without a first token at each gateway replica; beyond it they are refused (429)."""
    timeout_s: float = Field(600, gt=0)
    """An answer that is not whole by then is stopped, in vLLM too (504). Clients may ask for less by x-serinus-timeout-s."""


class ShadowConfig(StrictModel):
    """Copies of users' requests to a canary while it has 0 % of the users."""

    percent: float = Field(0, ge=0, le=100)
    """Share of requests that are copied after the user was answered; 0 copies none."""
    max_concurrent: int = Field(2, ge=1)
    """Copies under way at each gateway replica; more are dropped."""
    timeout_s: float = Field(60, gt=0)


class ServingConfig(StrictModel):
    """The gateway and the model servers behind it."""

    host: str = "127.0.0.1"
    """Address the gateway listens on; 0.0.0.0 opens it to the network."""
    port: int = Field(8000, ge=1, le=65535)
    pool: Literal["serve", "train", "data", "head"] = "serve"
    num_gateway_replicas: int = Field(1, ge=1)
    user_header: str = "x-serinus-user"
    """Header that names the user when a request has neither an API key nor the `user` field."""
    show_revision: bool = True
    """Tell the revision that answered in the header x-serinus-revision."""
    admission: AdmissionConfig = AdmissionConfig()
    shadow: ShadowConfig = ShadowConfig()
    engine: EngineConfig = EngineConfig()
    replicas: ReplicasConfig = ReplicasConfig()
    ready_timeout_s: float = Field(600, gt=0)
    """How long a revision may take to load before that counts as its failure."""
    keep_revisions: int = Field(1, ge=0)
    """Replaced revisions left running after a promotion, so that going back is a change of weight."""


class StepConfig(StrictModel):
    """One step of a rollout."""

    weight_percent: float = Field(gt=0, le=100)
    min_requests: int = Field(50, ge=1)
    """Requests the canary must have answered at this step before it may pass."""
    min_duration_s: float = Field(60, ge=0)


class RolloutConfig(StrictModel):
    """How a candidate becomes stable, and when it does not."""

    steps: tuple[StepConfig, ...] = (
        StepConfig(weight_percent=1),
        StepConfig(weight_percent=5),
        StepConfig(weight_percent=25),
        StepConfig(weight_percent=50),
    )
    """After the last step has passed the candidate is promoted."""
    interval_s: float = Field(5, gt=0)
    """Time between two looks at the evidence."""
    max_error_increase_percent: float = Field(1.0, ge=0, lt=100)
    """Harmful answers the canary may have above stable's share, in percentage points."""
    latency_quantile: float = Field(0.95, gt=0, lt=1)
    max_latency_ratio: float = Field(1.5, gt=1)
    """The canary's ttft quantile may be at most this times stable's."""
    latency_floor_s: float = Field(0.25, ge=0)
    """A ttft below this is never counted as slow, whatever stable's is."""
    alpha: float = Field(0.01, gt=0, lt=0.5)
    """Level of each test at each look. Thin: looks are not corrected for one another."""
    step_timeout_s: float = Field(3600, gt=0)
    """A step without enough evidence for so long is rolled back as inconclusive."""
    drain_s: float = Field(10, ge=0)
    """Time that requests in flight on a removed revision get to end."""

    @field_validator("steps")
    @classmethod
    def _growing(cls, steps: tuple[StepConfig, ...]) -> tuple[StepConfig, ...]:
        weights = [step.weight_percent for step in steps]
        if not weights:
            raise ValueError("at least one step is needed")
        if any(b <= a for a, b in pairwise(weights)):
            raise ValueError("weights must grow from step to step")
        return steps
