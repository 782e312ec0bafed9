"""Models as they come and as they are trained."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from cluster.artifacts.manifest import Manifest, Source, Weights
from cluster.config import StrictModel, is_none
from cluster.intervals import wilson


class ImportedModel(Weights):
    """A base model as it came, made a Hugging Face folder."""

    kind: Literal["model"] = "model"
    sources: tuple[Source, ...] = ()
    """The files it was made from. Where they lay is not on record: the same model in another folder is the same."""


class LossPoint(StrictModel):
    step: int
    loss: float
    learning_rate: float
    num_tokens: int
    """Trained on so far, over all ranks."""
    sequences_checksum: int = 0
    """Of the sequences that the step took, whichever rank took them (pipelines/training/packing.py)."""
    epsilon: float | None = Field(None, exclude_if=is_none)
    """Of private runs: what steps up to this one spent at the run's delta, at most. Their loss has noise, num_tokens is an
    expectation, and there is no checksum, which would tell who was drawn."""
    reward: float | None = Field(None, exclude_if=is_none)
    """Of grpo: the mean over the step's answers, which the model gave before the step."""


class Incident(StrictModel):
    """A step that did not stand: the run went back to a checkpoint, and left that step's data out."""

    step: int
    """The optimizer step that it would have been, from 1."""
    reason: str
    sequences_checksum: int
    """Of the sequences left out."""
    back_to_step: int = 0


class Privacy(StrictModel):
    """What a private run promises: with or without any one of the examples, the model made is nearly as likely
    ((epsilon, delta)-differential privacy, Dwork et al. 2006), by the accountant named."""

    epsilon: float
    """Of this run."""
    delta: float
    noise_multiplier: float
    sample_rate: float
    """The chance of each example to be in a step."""
    num_steps: int
    max_gradient_norm: float
    accountant: str
    unit: str
    """What one example is."""
    num_examples: int
    """Taken as known to everybody."""
    epsilon_of_data: float
    """Of all private runs on the same data up to this one, added up."""
    delta_of_data: float
    is_guaranteed: bool
    """False where the noise came from a seed that the recipe names."""


class Ledger(StrictModel):
    """What a run cost. Work that was lost to an interruption or an incident is not in it."""

    num_tokens: int
    flops: float
    """Floating-point operations that the model needs."""
    flops_basis: str
    device: str
    num_devices: int
    precision: str = ""
    """What matrices were multiplied in."""
    mfu: float | None = None
    """Model FLOPs utilization, 0 to 1; None where the device's peak is not known."""
    trained_s: float
    """Inside optimizer steps."""
    energy_estimate_wh: float | None = None
    energy_measured_wh: float | None = Field(None, exclude_if=is_none)
    """By counters of the hardware; then nothing is estimated."""
    energy_basis: str
    """What was measured, what the estimate rests on, or why there is none."""
    privacy: Privacy | None = Field(None, exclude_if=is_none)

    @property
    def energy_wh(self) -> float | None:
        """Measured or estimated: `energy_basis` says which."""
        return self.energy_estimate_wh if self.energy_measured_wh is None else self.energy_measured_wh


class Retention(StrictModel):
    """What training left of the old documents' score, on held-out ones."""

    before: float
    """Nats a token, of the model that training began with."""
    after: float
    num_sequences: int

    @property
    def percent(self) -> float:
        """Perplexity before / after: 100 where nothing was lost."""
        return 100 * math.exp(self.before - self.after)


class PreferenceAccuracy(StrictModel):
    """On how many held-out pairs a model trained on preferences prefers the chosen answer, before training and after."""

    num_pairs: int
    num_before: int
    """The chosen answer has the larger log-probability, summed over its tokens: what the loss is written in (Rafailov et al.
    2023, arXiv 2305.18290). Among answers of different lengths it leans to the shorter one."""
    num_after: int
    num_turned_right: int
    """Among `num_after`, not among `num_before`."""
    num_turned_wrong: int
    num_before_per_token: int
    """The same of the mean log-probability of a token (Meng et al. 2024, arXiv 2405.14734), which leans to the longer one."""
    num_after_per_token: int
    num_rewarded: int
    """The implicit reward of the chosen answer is the larger: its log-probability has gained more than the other's. Before
    training every reward is 0, so that there is nothing to compare it to."""

    @property
    def gain_points(self) -> float:
        return 100 * (self.num_after - self.num_before) / self.num_pairs

    @property
    def summary(self) -> str:
        before, after = (f"{100 * num / self.num_pairs:.1f} %" for num in (self.num_before, self.num_after))
        low, high = (100 * limit for limit in wilson(self.num_after, self.num_pairs))
        return (
            f"prefers the chosen answer of {self.num_pairs} held-out pairs in {before} before, {after} after"
            f" [{low:.1f}, {high:.1f}]; implicit reward larger in {100 * self.num_rewarded / self.num_pairs:.1f} %"
        )


class Checkpoint(Weights):
    """A fine-tuned model, exported."""

    kind: Literal["checkpoint"] = "checkpoint"
    losses: tuple[LossPoint, ...] = ()
    num_workers: int = 0
    resumed_at_steps: tuple[int, ...] = ()
    """Optimizer steps from which the run continued after an interruption."""
    tokens_per_s: float = 0.0
    incidents: tuple[Incident, ...] = ()
    ledger: Ledger | None = None
    retention: Retention | None = Field(None, exclude_if=is_none)
    preference: PreferenceAccuracy | None = Field(None, exclude_if=is_none)
    """Where `dpo` held pairs out."""

    @property
    def summary(self) -> str:
        if not self.losses:
            return super().summary
        first, last = self.losses[0], self.losses[-1]
        told = f"loss {first.loss:.3f} -> {last.loss:.3f} in {last.step} steps, {last.num_tokens} tokens, {self.tokens_per_s:.0f}/s"
        return f"{told}; {self.preference.summary}" if self.preference else told


class WeightAttempt(StrictModel):
    """One weight of consolidation, and what became of it."""

    weight: float
    checkpoint: str
    """Digest of the trained model's manifest."""
    retention_percent: float
    loss: float
    """Of what is learnt, mean over the last tenth of the steps, nats."""
    took_s: float


class WeightSearch(Manifest):
    """Weights of consolidation that were tried, for the smallest that retains enough."""

    kind: Literal["weight_search"] = "weight_search"
    chosen: float | None = None
    """None where none of them retained enough."""
    min_retention_percent: float = 0.0
    attempts: tuple[WeightAttempt, ...] = ()

    @property
    def summary(self) -> str:
        tried = ", ".join(f"{a.weight:g} retains {a.retention_percent:.1f} %" for a in self.attempts)
        return f"{'none' if self.chosen is None else f'{self.chosen:g}'} taken: {tried}"
