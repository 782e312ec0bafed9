"""Training in stages, each larger than the one before and foretold by it. No heavy imports here."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from pydantic import Field, ValidationError, model_validator

from cluster.config import StrictModel
from pipelines.config.training import TrainConfig


class SizeConfig(StrictModel):
    """A model of the source's architecture in another size; what is left out is as large as there."""

    hidden_size: int | None = Field(None, ge=1)
    num_hidden_layers: int | None = Field(None, ge=1)
    num_attention_heads: int | None = Field(None, ge=1)
    num_key_value_heads: int | None = Field(None, ge=1)
    """Left out beside num_attention_heads: as many heads for each of them as in the source."""
    head_dim: int | None = Field(None, ge=1)
    """Left out beside hidden_size or num_attention_heads: the one over the other."""
    intermediate_size: int | None = Field(None, ge=1)
    """Of the feed-forward block. Left out beside hidden_size: as many times that as in the source."""


class StageConfig(StrictModel):
    """One size of model, trained from random weights once for each size of data."""

    model: SizeConfig = SizeConfig()
    """Left out: the source's own size."""
    num_tokens: Annotated[tuple[int, ...], Field(min_length=1)]
    """To train on: a number, or several growing ones, each of which is a run of its own from the same random weights."""
    sequence_length: int | None = Field(None, ge=8)
    """In place of train.sequence_length."""
    learning_rate: float | None = Field(None, gt=0)
    """In place of train.learning_rate: small models take larger ones."""

    @model_validator(mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, given: object) -> object:
        if isinstance(given, dict) and isinstance(given.get("num_tokens"), int | str):
            return {**given, "num_tokens": [given["num_tokens"]]}
        return given

    @model_validator(mode="after")
    def _grows(self) -> StageConfig:
        if self.num_tokens[0] < 1 or any(a >= b for a, b in zip(self.num_tokens, self.num_tokens[1:], strict=False)):
            raise ValueError("num_tokens must be positive and grow: the last one is the stage's own")
        return self


class ForecastGateConfig(StrictModel):
    """What must hold before a stage starts; else it does not, and the command ends with exit code 1."""

    confidence: float = Field(0.9, ge=0.5, le=0.999)
    """Of the interval in which the next loss is expected."""
    max_fit_error_percent: float = Field(2, gt=0)
    """Root mean square of how far the finished runs lie from the law fitted to them, of their loss."""
    max_interval_percent: float = Field(10, gt=0)
    """Half the width of the next stage's interval, of the loss predicted. Not asked before the second stage: runs of one size say
    nothing of what another brings."""
    max_loss: float | None = Field(None, gt=0)
    """Held-out loss that the last stage must reach, in nats a token. Asked before each stage: one that starts can still reach it,
    by the lower end of the last stage's interval."""
    max_epochs: float = Field(4, gt=0)
    """How often a run may see the data. The law counts new tokens; up to four times over they are nearly as good as new
    (Muennighoff et al. 2023, arXiv 2305.16264)."""


class StageRunConfig(NamedTuple):
    """One run of a stage."""

    stage: int
    """From 0."""
    train: TrainConfig


class ProgressiveConfig(StrictModel):
    """Small models first: a law fitted to their losses says what the next larger one will come to, before it starts."""

    stages: Annotated[tuple[StageConfig, ...], Field(min_length=2)]
    """From the smallest to the one that is wanted, which the lifecycle goes on with."""
    gate: ForecastGateConfig = ForecastGateConfig()
    num_heldout_tokens: int = Field(200_000, ge=1_000)
    """Of the dataset's held-out documents, at most: what all runs are measured on."""

    def runs(self, train: TrainConfig) -> tuple[StageRunConfig, ...]:
        """All of them in their order, each as the training that it is.

        Raises:
            ValueError: one of them cannot be.
        """
        return tuple(
            StageRunConfig(number, _run_of(train, stage, num_tokens, f"progressive.stages[{number}]"))
            for number, stage in enumerate(self.stages)
            for num_tokens in stage.num_tokens
        )

    def context_length(self, train: TrainConfig) -> int:
        """Tokens of the windows in which all stages are measured: the shortest sequence that any of them has learnt from."""
        return min(stage.sequence_length or train.sequence_length for stage in self.stages)


def _run_of(train: TrainConfig, stage: StageConfig, num_tokens: int, where: str) -> TrainConfig:
    length = stage.sequence_length or train.sequence_length
    num_steps = -(-num_tokens // (train.total_sequences * length))
    if train.warmup_steps >= num_steps:
        raise ValueError(
            f"{where}: {num_tokens} tokens are {num_steps} steps, and train.warmup_steps ({train.warmup_steps}) must be below"
            " that: lower it, or give the stage more tokens"
        )
    changes = {"num_steps": num_steps, "sequence_length": length}
    try:
        return train.replace(**changes, learning_rate=stage.learning_rate or train.learning_rate)
    except ValidationError as error:
        raise ValueError(f"{where}: {error.errors(include_url=False)[0]['msg']}") from None


def refuse(train: TrainConfig) -> None:
    """Raises ValueError for trainings that the law does not hold for."""
    if train.method.kind != "causal":
        raise ValueError(
            f"progressive needs train.method causal: the law is of tokens of text, not of {train.method.kind}"
        )
    if found := [
        name for name in ("lora", "privacy", "replay", "consolidation", "distillation") if getattr(train, name)
    ]:
        raise ValueError(
            f"progressive trains all weights from random ones on the dataset alone: leave train.{found[0]} out"
        )
    if train.quantization_aware:
        raise ValueError(
            "progressive needs train.quantization_aware left out: its law is of models as they are exported, and these would learn"
            " something else; train the model that comes out once more"
        )
    if "num_steps" in train.model_fields_set:
        raise ValueError("train.num_steps follows from progressive.stages' num_tokens: leave it out")
