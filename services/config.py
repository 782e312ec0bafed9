"""Settings of what runs: the engine, the gateway, the rollout. No heavy imports here."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from cluster.config import Location, StrictModel

LoraRank = Literal[8, 16, 32, 64, 128, 256, 320, 512]
"""Ranks that vLLM has kernels for; an adapter of another rank takes the next larger one."""


class LoraConfig(StrictModel):
    """Room for LoRA adapters beside the weights, set aside when the engine starts."""

    max_rank: LoraRank = 16
    """Largest rank of an adapter; memory for it is set aside whatever the adapters' own rank is."""
    max_adapters: int = Field(4, ge=1)
    """Adapters loaded at once: stable's, a canary's, and replaced ones that are kept."""


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
    lora: LoraConfig | None = None
    """Room for adapters (`lora: {}` for the defaults). Without it no adapter can be a canary on this engine; answers without an
    adapter get a little slower with it."""
    sleep_mode: bool = False
    """GPUs only: a revision at rest moves its weights to the host's memory and gives the cache's memory back."""
    extra: dict[str, Any] = {}
    """Further vLLM engine arguments, passed as they are."""

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
    waiting_share_percent: float = Field(50, gt=0, le=100)
    """Of these places one key may take so many: a client that floods the gateway leaves room for the others."""
    timeout_s: float = Field(600, gt=0)
    """An answer that is not whole by then is stopped, in vLLM too (504). Clients may ask for less by x-serinus-timeout-s."""
    canary_patience_s: float = Field(60, gt=0)
    """A canary that has not begun its stream by then has failed (outcome `timeout`), and stable answers: a revision that hangs
    must cost its users a minute, not `timeout_s`. Answers in one piece get the whole `timeout_s`."""
    canary_absence_s: float = Field(180, ge=0)
    """A canary whose replicas are all gone for a while (a process was killed, a machine died) starts again by itself: its users are
    answered by stable, and the requests it missed say nothing about the model. Absent for longer, each of them is its failure."""

    @property
    def max_waiting_of_key(self) -> int:
        return math.ceil(self.max_waiting_requests * self.waiting_share_percent / 100)


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
    entry: Literal["auto", "direct", "proxy"] = "auto"
    """`direct`: gateway replicas listen themselves, on the nodes where they run; the shortest way. `proxy`: Serve's proxies listen,
    on every node, and go on to a replica anywhere. `auto`: direct on a loopback address, else proxy."""
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
    """Replaced revisions left running after a promotion, at rest, for rollout.keep_warm_s."""

    @property
    def on_loopback(self) -> bool:
        return self.host in {"localhost", "::1"} or self.host.startswith("127.")

    @property
    def is_direct(self) -> bool:
        """Whether gateway replicas listen themselves."""
        return self.entry == "direct" or (self.entry == "auto" and self.on_loopback)


AuditKind = Literal[
    "started", "step", "held", "promoted", "rolled_back", "aborted", "inconclusive", "reverted", "decayed", "waiting",
    "not_started", "published", "deployed", "keys",
]  # fmt: skip
"""What the audit record tells of, and webhooks. `held`: a person set the weight. `rolled_back`: the analysis found harm;
`aborted`: a person took the candidate out, or another one took its place; `inconclusive`: not enough evidence in time.
`reverted`: stable was changed outside a rollout, by a person or by the watch over decay. `decayed`: stable has, and a person
must act. `waiting`: a candidate has to wait for the rollout under way, or gave its place up; `not_started`: its turn came and
it could not be loaded."""
TOLD: Final[tuple[AuditKind, ...]] = (
    "started", "step", "held", "promoted", "rolled_back", "aborted", "inconclusive", "reverted", "decayed", "waiting",
    "not_started",
)  # fmt: skip


class WebhookConfig(StrictModel):
    """One receiver of notifications. docs/notifications.md has the payload and how to check its signature."""

    url: str | None = None
    """Where to POST. It goes into storage as it is: where the address itself is a secret, name `url_env` instead."""
    url_env: str | None = Field(None, pattern=r"^[A-Za-z_]\w*$")
    """Environment variable, on the head node of the cluster, that holds the address."""
    secret_env: str | None = Field(None, pattern=r"^[A-Za-z_]\w*$")
    """Environment variable there that holds the secret the body is signed with. Without one nothing is signed."""
    events: tuple[AuditKind, ...] = TOLD
    """Kinds of entries of the audit record that are sent."""

    @field_validator("url")
    @classmethod
    def _of_the_web(cls, url: str | None) -> str | None:
        if url is not None and not is_web_address(url):
            raise ValueError("should be an address such as https://host/path")
        return url

    @model_validator(mode="after")
    def _one_address(self) -> WebhookConfig:
        if (self.url is None) == (self.url_env is None):
            raise ValueError("give one of url and url_env")
        return self


def is_web_address(url: str) -> bool:
    """Whether a notification can be sent there."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False


class NotifyConfig(StrictModel):
    """Who is told what happens to rollouts."""

    webhooks: tuple[WebhookConfig, ...] = ()
    timeout_s: float = Field(10, gt=0)
    """For a receiver to take the connection, and between two bytes of its answer."""
    give_up_after_s: float = Field(86_400, gt=0)
    """What could not be delivered for so long after it happened is not tried any more."""


Metric = Literal["errors", "ttft", "tpot", "quality"]
"""What a canary is judged by: harmful answers, time to the first token, time per output token, paired scores."""
METRICS: Final[tuple[Metric, ...]] = ("errors", "ttft", "tpot", "quality")


class StepConfig(StrictModel):
    """One step of a rollout."""

    weight_percent: float = Field(gt=0, le=100)
    min_requests: int = Field(50, ge=1)
    """Requests the canary must have answered at this step before it may pass. Those of a user between a harm and its next good
    answer do not count."""
    min_duration_s: float = Field(60, ge=0)
    prove: tuple[Metric, ...] = ("errors", "ttft")
    """Metrics for which a harm of the effect's size must be excluded before the step passes; `none` waits for no proof, and
    harm is still watched for. Time per token and quality are not asked for unless told so: not every model streams, and not
    every rollout has probes."""
    error_effect_percent: float | None = Field(default=None, gt=0, lt=100)
    """Effect to be excluded at this step, where it is not the rollout's: a small step proves little in good time."""
    latency_effect_ratio: float | None = Field(default=None, gt=1)
    quality_effect_percent: float | None = Field(default=None, gt=0, lt=100)

    @field_validator("prove", mode="before")
    @classmethod
    def _listed(cls, prove: object) -> object:
        """`none` and a single name need no list in a recipe."""
        if isinstance(prove, str):
            return () if prove == "none" else (prove,)
        return prove


Scorer = Literal["exact", "contains", "regex", "chrf", "choice", "judge"]
"""How an answer is scored, 0 to 1. `exact`: it is one of the expected ones, but for white space at its ends. `contains`: one
of them is in it, whatever the case. `regex`: one of them, taken as a pattern of RE2, is found in it. `chrf`: sacrebleu's chrF,
the best over the expected ones. `choice`: the right one of `choices` is the likeliest continuation, per byte. `judge`: another
model compares the two revisions' answers."""


class JudgeConfig(StrictModel):
    """A model that compares two answers, at an endpoint that speaks OpenAI's chat API."""

    url: str
    """Base URL, as https://api.example.com/v1."""
    model: str
    key_env: str | None = None
    """Environment variable with the API key. It is read where the probes run: set it on the head node before `serinus up`."""
    timeout_s: float = Field(60, gt=0)


class ProbeSetConfig(StrictModel):
    """A file of items with known answers. docs/rollouts.md tells what a line holds."""

    name: str = Field(pattern=r"^[\w.-]{1,64}$")
    path: Location
    """JSONL. It is read, checked and copied into storage when a rollout starts."""
    scorer: Scorer = "exact"
    """For items that name none."""
    max_tokens: int = Field(128, ge=1)
    """Length of an answer."""
    judge: JudgeConfig | None = None
    """Who compares, for the scorer `judge`."""


class DecayConfig(StrictModel):
    """What watches a model after its promotion: the same items, against the scores recorded then."""

    max_accuracy_drop_points: float = Field(3.0, ge=0, lt=100)
    """Margin: a drop of the mean score that is established to be more than this, over all questions that the items stand for,
    brings the previous revision back."""
    effect_points: float = Field(5.0, gt=0, lt=100)
    """Effect: the drop that the test is aimed at."""
    alpha: float = Field(0.01, gt=0, lt=0.5)
    """Chance that a model within the margin is ever called decayed, over the whole watch however long it goes on."""
    items_per_minute: float = Field(6.0, gt=0, le=6000)
    """Pace of the watch; recording the scores right after a promotion goes at the pace of a rollout."""
    round_every_h: float = Field(24.0, ge=0)
    """A round over all items begins so long after the one before has ended. Each takes its share of alpha: rounds without a pause
    would spend in a day what is to last for weeks."""
    rollback: bool = True
    """False: say so, and leave what to do to people."""

    @model_validator(mode="after")
    def _effect_beyond_margin(self) -> DecayConfig:
        if self.effect_points <= self.max_accuracy_drop_points:
            raise ValueError("effect_points must lie beyond max_accuracy_drop_points: no test tells the two apart")
        return self


class ProbesConfig(StrictModel):
    """Golden probes: items with known answers that both revisions of a rollout are asked, beside the users' requests."""

    sets: tuple[ProbeSetConfig, ...] = ()
    """None: no probes, and nothing watches over decay."""
    items_per_minute: float = Field(60.0, gt=0, le=6000)
    """Pace during a rollout. An item is one request to each revision (for `choice`, one for each choice)."""
    max_concurrent: int = Field(1, ge=1, le=64)
    """Items under way at once: what bounds the share of an engine that probes can take from users."""
    timeout_s: float = Field(60.0, gt=0)
    """An answer that takes longer has failed."""
    seed: int = 0
    """Sent with every request, beside temperature 0."""
    decay: DecayConfig = DecayConfig()

    @model_validator(mode="after")
    def _whole(self) -> ProbesConfig:
        names = [found.name for found in self.sets]
        if len(set(names)) < len(names):
            raise ValueError("two sets have the same name")
        if missing := [found.name for found in self.sets if found.scorer == "judge" and found.judge is None]:
            raise ValueError(f"set {missing[0]} is scored by a judge and names none: add `judge:`")
        return self


class RolloutConfig(StrictModel):
    """How a candidate becomes stable, and when it does not. docs/rollouts.md explains margins, effects, alpha and beta."""

    steps: tuple[StepConfig, ...] = (
        StepConfig(weight_percent=1, error_effect_percent=5, latency_effect_ratio=2),
        StepConfig(weight_percent=5),
        StepConfig(weight_percent=25),
        StepConfig(weight_percent=50),
    )
    """After the last step has passed the candidate is promoted. The first step excludes disasters only: with 1 % of the traffic
    more would take hours at a few requests a second."""
    interval_s: float = Field(5, gt=0)
    """Time between two looks at the evidence. The level holds for any number of looks, so this costs nothing but work."""
    max_error_increase_percent: float = Field(0.5, ge=0, lt=100)
    """Margin: harmful answers the canary may have above stable's share, in percentage points. Beyond it the canary is rolled
    back once that is established. Half a point keeps a service at 99.5 % above the usual objective of 99 %."""
    error_effect_percent: float = Field(2.0, gt=0, lt=100)
    """Effect: an increase of so many points must not pass unseen, and is what the test is aimed at. Smaller effects take more
    requests, about as one over the square."""
    max_latency_ratio: float = Field(1.1, gt=1)
    """Margin: the canary's waits may be so many times stable's at every quantile. Two runs of the same model differ by some
    percent with batching and placement; less than a tenth is no reason to go back."""
    latency_effect_ratio: float = Field(1.3, gt=1)
    """Effect: waits longer by this factor must not pass unseen."""
    latency_floor_s: float = Field(0.25, ge=0)
    """A ttft below this is never counted as slow, whatever stable's is: nobody notices."""
    tpot_floor_s: float = Field(0.02, ge=0)
    """The same for the time per output token: 50 tokens a second is faster than anyone reads."""
    max_quality_drop_percent: float = Field(1.0, ge=0, lt=100)
    """Margin: points of mean score the canary may lose on the same items."""
    quality_effect_percent: float = Field(5.0, gt=0, lt=100)
    """Effect: a loss of so many points must not pass unseen."""
    alpha: float = Field(0.01, gt=0, lt=0.5)
    """Chance that a canary within all margins is ever rolled back, over the whole rollout, all looks and metrics together."""
    beta: float = Field(0.05, gt=0, lt=0.5)
    """Chance that a canary worse by an effect passes a step that excludes it, however often one looks."""
    when_busy: Literal["refuse", "wait", "replace"] = "refuse"
    """A new candidate while a rollout is under way: `refuse` it; let it `wait`, and begin by itself when that one has ended (a
    newer one takes an older one's place); or `replace`: take the present candidate out, then begin."""
    step_timeout_s: float = Field(3600, gt=0)
    """A step without enough evidence for so long is rolled back as inconclusive."""
    drain_s: float = Field(10, ge=0)
    """Time that requests in flight on a removed revision get to end."""
    keep_warm_s: float = Field(86400, ge=0)
    """A replaced revision (serve.keep_revisions) rests with one warm replica for so long, so that going back moves a pointer. A day
    shows what a model does at every hour; then its engine is stopped."""
    probes: ProbesConfig = ProbesConfig()
    """What both revisions are asked for the verdict on quality, and what is asked of stable afterwards."""

    @field_validator("steps")
    @classmethod
    def _growing(cls, steps: tuple[StepConfig, ...]) -> tuple[StepConfig, ...]:
        weights = [step.weight_percent for step in steps]
        if not weights:
            raise ValueError("at least one step is needed")
        if any(b <= a for a, b in pairwise(weights)):
            raise ValueError("weights must grow from step to step")
        if weights[0] >= 100:
            raise ValueError("the first step leaves nobody on stable to compare with: begin below 100")
        return steps

    @model_validator(mode="after")
    def _effects_beyond_margins(self) -> RolloutConfig:
        fields: dict[Metric, str] = {"errors": "error_effect_percent", "ttft": "latency_effect_ratio",
                                     "quality": "quality_effect_percent"}  # fmt: skip
        for metric, field in fields.items():
            if min(self.effects(metric)) <= self.margin(metric):
                raise ValueError(f"{field} must lie beyond the margin: no test tells the two apart")
        return self

    def margin(self, metric: Metric) -> float:
        """What is tolerated: a difference of shares, a ratio of waits, or a drop of the mean score."""
        match metric:
            case "errors":
                return self.max_error_increase_percent / 100
            case "quality":
                return self.max_quality_drop_percent / 100
            case _:
                return self.max_latency_ratio

    def effect(self, metric: Metric, step: StepConfig | None = None) -> float:
        """What must not pass unseen, at that step or throughout, in the margin's unit."""
        match metric:
            case "errors":
                return ((step and step.error_effect_percent) or self.error_effect_percent) / 100
            case "quality":
                return ((step and step.quality_effect_percent) or self.quality_effect_percent) / 100
            case _:
                return (step and step.latency_effect_ratio) or self.latency_effect_ratio

    def effects(self, metric: Metric) -> tuple[float, ...]:
        """All that some step excludes, and the rollout's own, in order."""
        return tuple(sorted({self.effect(metric), *(self.effect(metric, step) for step in self.steps)}))
