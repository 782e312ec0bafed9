"""How a model is trained. No heavy imports here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cluster.config import StrictModel
from pipelines.config.continual import ConsolidationConfig, ReplayConfig
from pipelines.config.methods import CausalConfig, MethodConfig, kind_of
from pipelines.config.model import ModelConfig
from pipelines.config.privacy import PrivacyConfig
from pipelines.config.quantization import QuantizationAwareConfig
from pipelines.config.rewards import GrpoConfig
from pipelines.config.sharing import ParallelConfig, ZeroConfig
from pipelines.config.stages import Count, Pool, Seed
from pipelines.config.trackers import TrackersConfig


class DistillationConfig(StrictModel):
    """A larger model's probabilities beside the tokens themselves (Hinton et al. 2015, arXiv 1503.02531, section 2)."""

    teacher: ModelConfig
    """With the base's vocabulary. It is held beside the model on every worker, in the same number format; with zero stage 3 it is
    shared out."""
    weight: float = Field(0.5, gt=0, le=1)
    """Of the teacher's part of the loss; the rest is the method's own."""
    temperature: float = Field(2.0, gt=0)
    """That both models' probabilities are softened by; the teacher's part is multiplied by its square, as in the paper."""


class LoraConfig(StrictModel):
    """Low-rank adaptation (Hu et al. 2021, arXiv 2106.09685): small matrices beside frozen weights are trained."""

    rank: int = Field(16, ge=1)
    alpha: float = Field(32, gt=0)
    """What the matrices say is multiplied by alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Of what goes into them, in training."""
    target_modules: Literal["all-linear"] | Annotated[tuple[str, ...], Field(min_length=1)] = "all-linear"
    """Names of linear modules (q_proj, ...); `all-linear`: all but the output embedding (Dettmers et al. 2023, arXiv
    2305.14314, section 4)."""

    @property
    def scaling(self) -> float:
        return self.alpha / self.rank


class TrainConfig(StrictModel):
    """Fine-tuning of a causal language model: of all its weights, or with `lora` of an adapter."""

    method: MethodConfig = CausalConfig()
    """What is learnt from what: `causal` from the dataset, `instruct` and `dpo` from a file, `grpo` from answers of its own to the
    prompts of a file."""
    replay: ReplayConfig | None = None
    """For `causal`."""
    consolidation: ConsolidationConfig | None = None
    """For any method, with zero stage 1, 2 or 3."""
    distillation: DistillationConfig | None = None
    """For `causal` and `instruct`."""
    lora: LoraConfig | None = None
    """For any method. Leave it out and all weights are trained; give `{}` for the defaults. An adapter learns at ten times the
    learning_rate of full fine-tuning, about 2e-4."""
    privacy: PrivacyConfig | None = None
    """For any method but grpo, with zero stage 0, 1 or 2. A step then takes each example with the same chance, on average as many
    as a step would take sequences otherwise."""
    quantization_aware: QuantizationAwareConfig | None = None
    """For any method but grpo: weights are rounded as the quantize stage will round them, and learn to do with it."""

    num_workers: Count = 2
    gpus_per_worker: int = Field(1, ge=0)
    """0 trains on CPUs with gloo."""
    cpus_per_worker: float = Field(1, gt=0)
    pool: Pool = "train"
    zero: ZeroConfig = ZeroConfig()
    """Shares out what copies of the model have in common."""
    parallel: ParallelConfig = ParallelConfig()
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """What matrices are multiplied in; weights and moments are stepped in float32 either way. `auto`: bfloat16, or float32 where a
    rank's CPU has no instructions for bfloat16; the model made is kept in bfloat16 all the same."""
    num_steps: Count = 1000
    """Optimizer steps; the data is repeated in a new order as often as needed."""
    sequence_length: int = Field(1024, ge=8, lt=2**31)  # no Count: of two lower bounds pydantic keeps that one's
    """Tokens."""
    sequences_per_worker: Count = 8
    """Per micro-batch; with dpo pairs, with grpo answers.
    With `parallel`, of the workers that hold one copy of the model together."""
    gradient_accumulation: Count = 1
    sequences_per_step: Count | None = None
    """Over all workers and micro-batches. When given, the accumulation follows from it, and a run that was interrupted
    goes on with another number of workers."""
    attend_across_documents: bool = False
    """Let a token look back past the beginning of its document, into those packed before it, as most trainers do."""
    learning_rate: float = Field(3e-5, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    warmup_steps: int = Field(10, ge=0)
    min_learning_rate_fraction: float = Field(0.1, ge=0, le=1)
    """Where the cosine ends, as a share of learning_rate."""
    max_gradient_norm: float = Field(1.0, gt=0)
    gradient_checkpointing: bool = False
    checkpoint_every_steps: int = Field(100, ge=1)
    checkpoint_asynchronously: bool = True
    """Steps go on while a checkpoint is written, from a copy of the states in the host's memory: 12 bytes a trained weight, over
    all workers. false: they stand still until it is written, and no copy is taken."""
    keep_checkpoints: int = Field(2, ge=1)
    """The newest. Three at least stay while max_skipped_steps is above 0."""
    max_failures: int = Field(3, ge=0)
    """Worker failures survived by resuming from the last checkpoint."""
    hang_timeout_s: float | None = Field(600, ge=10)
    """A worker that the others wait for is ended, which counts as a failure, once none of them got any further for so long: began
    no collective operation and no pass through the model. Let it be well above the slowest micro-batch; what one worker does alone
    (reading the model, writing checkpoints, exporting) may take three times as long. null: nobody watches."""
    spike_deviations: float | None = Field(10, gt=0)
    """A loss so many standard deviations above the median of the last 32 is a spike. A spike, or a loss that is no number,
    takes the run back to its last good checkpoint and leaves that step's data out. null lets spikes pass."""
    max_skipped_steps: int = Field(3, ge=0)
    """More of them end the run: then it is not the data."""
    trackers: TrackersConfig = TrackersConfig()
    watts_per_worker: float | None = Field(None, gt=0)
    """What a worker's device draws in training, for the ledger's estimate of energy. Without it the power limits of a few
    GPUs are known."""
    seed: Seed = 0
    """Of the order of the data, dropout, an adapter's beginning, the answers of grpo."""

    @model_validator(mode="before")
    @classmethod
    def _lets_spikes_pass(cls, given: Any) -> Any:
        """With privacy, and with grpo, whose loss says nothing of how the model does, the default of spike_deviations is null."""
        if isinstance(given, dict) and (given.get("privacy") is not None or kind_of(given.get("method")) == "grpo"):
            return {"spike_deviations": None, **given}
        return given

    @model_validator(mode="after")
    def _sound_in_private(self) -> TrainConfig:
        """What would break the guarantee is refused, with the reason."""
        if self.privacy is None:
            return self
        sharding = self.zero.extra.get("zero_optimization")
        if 3 in (self.zero.stage, sharding.get("stage") if isinstance(sharding, dict) else None):
            raise ValueError(
                "privacy needs zero stage 0, 1 or 2: at stage 3 no rank has the whole gradient of an example, whose length"
                " is to be cut"
            )
        if self.replay or self.consolidation:
            name = "replay" if self.replay else "consolidation"
            raise ValueError(f"privacy does not go with {name}: it would use old documents without any noise")
        if self.spike_deviations is not None:
            raise ValueError(
                "privacy needs spike_deviations: null: data that is left out for its loss is a choice no accountant sees"
            )
        if self.attend_across_documents:
            raise ValueError(
                "privacy needs attend_across_documents: false: a document that others look back to is in their gradients"
            )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("betas must lie in [0, 1)")
        if self.warmup_steps >= self.num_steps:
            raise ValueError(f"warmup_steps ({self.warmup_steps}) must be below num_steps ({self.num_steps})")
        if self.attend_across_documents and self.method.kind != "causal":
            raise ValueError(f"attend_across_documents is for causal: {self.method.kind} keeps conversations apart")
        if self.replay and self.method.kind != "causal":
            raise ValueError(f"replay is for causal: {self.method.kind} takes no documents")
        if self.consolidation and self.lora:
            raise ValueError(
                "consolidation holds weights that are trained; with lora they are frozen: leave one of them out"
            )
        if self.consolidation and self.zero.stage == 0:
            raise ValueError(
                "consolidation needs zero stage 1, 2 or 3: at stage 0 gradients are clipped where it cannot see"
            )
        if self.num_workers % self.parallel.workers == 0 and self.sequences_per_step is not None:
            self._check_accumulation(self.sequences_per_step)
        self._check_parallel()
        if isinstance(self.method, GrpoConfig):
            self._check_answers(self.method)
        if self.distillation:
            self._check_distillation()
        if self.quantization_aware:
            self._check_rounding()
        if (self.zero.offload_parameters and self.zero.stage != 3) or (
            self.zero.offload_optimizer and self.zero.stage == 0
        ):
            raise ValueError("offload_parameters needs zero stage 3, offload_optimizer stage 1, 2 or 3")
        return self

    def _check_accumulation(self, sequences_per_step: int) -> None:
        if self.gradient_accumulation != 1:
            raise ValueError("gradient_accumulation follows from sequences_per_step: leave one of them out")
        if sequences_per_step % (self.replicas * self.sequences_per_worker):
            how = "num_workers" if self.parallel.workers == 1 else f"(num_workers / {self.parallel.workers})"
            raise ValueError(
                f"sequences_per_step ({sequences_per_step}) must be a multiple of {how} x sequences_per_worker"
                f" ({self.replicas} x {self.sequences_per_worker})"
            )

    def _check_parallel(self) -> None:
        tensor, pipeline = self.parallel.tensor, self.parallel.pipeline
        if self.num_workers % self.parallel.workers:
            what = " x ".join(f"parallel.{n} ({k})" for n, k in (("tensor", tensor), ("pipeline", pipeline)) if k > 1)
            raise ValueError(f"num_workers ({self.num_workers}) must be a multiple of {what}")
        if pipeline > 1:
            self._check_pipeline(pipeline)
        if tensor > 1 and self.lora:
            raise ValueError(
                "lora does not go with parallel.tensor: an adapter's matrices are not cut up; share the frozen weights out by"
                " zero stage 3 instead"
            )
        if tensor > 1 and self.privacy:
            raise ValueError(
                "privacy does not go with parallel.tensor: no worker has the whole gradient of an example, whose length is to"
                " be cut"
            )

    def _check_distillation(self) -> None:
        if self.method.kind not in ("causal", "instruct"):
            raise ValueError(
                f"distillation is for causal and instruct: {self.method.kind} has no next token to be told of"
            )
        if self.privacy:
            raise ValueError("privacy does not go with distillation: no accountant knows what the teacher has seen")
        if self.parallel.workers > 1:
            raise ValueError("parallel does not go with distillation: share both models out by zero stage 3 instead")

    def _check_answers(self, method: GrpoConfig) -> None:
        needs = {
            "privacy": "a reward compares answers to a prompt with each other, which are no examples of their own",
            "quantization_aware": "answers would be drawn from weights that are not rounded",
        }
        for field, why in needs.items():
            if getattr(self, field):
                raise ValueError(f"{field} does not go with grpo: {why}")
        if self.parallel.workers > 1:
            raise ValueError("parallel does not go with grpo: share the model out by zero stage 3 instead")
        if method.max_completion_tokens >= self.sequence_length:
            raise ValueError(
                f"method.max_completion_tokens ({method.max_completion_tokens}) must be below sequence_length"
                f" ({self.sequence_length}), which holds prompt and answer"
            )
        if self.total_sequences % method.num_generations:
            raise ValueError(
                f"a step has {self.total_sequences} answers (num_workers x sequences_per_worker x gradient_accumulation),"
                f" which must be a multiple of method.num_generations ({method.num_generations})"
            )

    def _check_rounding(self) -> None:
        if self.lora:
            raise ValueError(
                "quantization_aware does not go with lora: what is stored is base and adapter in one, and the sum of both rounded"
                " is not their sum rounded"
            )
        if self.parallel.tensor > 1:
            raise ValueError(
                "quantization_aware does not go with parallel.tensor: no worker has whole rows, whose largest value gives the"
                " scale; share the model out by zero stage 3 instead"
            )

    def _check_pipeline(self, pipeline: int) -> None:
        given = self.zero.extra.get("zero_optimization")
        over = given if isinstance(given, dict) else {}
        offloads = self.zero.offload_optimizer or over.get("offload_optimizer") or over.get("offload_param")
        if {self.zero.stage, over.get("stage", 1)} != {1} or offloads:
            raise ValueError(
                "parallel.pipeline needs zero: {stage: 1}: a step's micro-batches add up their gradients before anything is"
                " shared out"
            )
        fields = ("lora", "privacy", "consolidation")
        if found := [name for name in fields if getattr(self, name)] + ["dpo"] * (self.method.kind == "dpo"):
            raise ValueError(
                f"{found[0]} does not go with parallel.pipeline: it needs gradients or answers of a whole model"
            )
        if self.accumulation < pipeline:
            raise ValueError(
                f"parallel.pipeline ({pipeline}) needs as many micro-batches a step, or stages would wait: there are"
                f" {self.accumulation}; raise gradient_accumulation or sequences_per_step"
            )

    @property
    def replicas(self) -> int:
        """Copies of the model, each held by as many workers as `parallel` says; ZeRO shares out what they have in common."""
        return self.num_workers // self.parallel.workers

    @property
    def accumulation(self) -> int:
        """Micro-batches of an optimizer step."""
        if self.sequences_per_step is None:
            return self.gradient_accumulation
        return self.sequences_per_step // (self.replicas * self.sequences_per_worker)

    @property
    def total_sequences(self) -> int:
        """Sequences of an optimizer step over all workers."""
        return self.replicas * self.sequences_per_worker * self.accumulation
