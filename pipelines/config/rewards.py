"""Reinforcement: what answers are worth, and where they are drawn. No heavy imports here."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from cluster.config import Location, StrictModel
from pipelines.config.stages import Pool


class NamedReward(StrictModel):
    """What every reward has."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    weight: float = Field(1.0, allow_inf_nan=False)
    """The rewards of an answer are added up, each times its weight."""


class AnswerReward(NamedReward):
    """1 for an answer whose last number is the line's, or where that is none, whose last line is the line's text; else 0."""

    kind: Literal["answer"]
    field: str = "answer"
    """Of the line: the right answer. Of a worked solution as GSM8K publishes them, what stands behind `####`."""


class PatternReward(NamedReward):
    """1 for an answer in which a regular expression is found, else 0."""

    kind: Literal["pattern"]
    pattern: str

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        return pattern


class FunctionReward(NamedReward):
    """A Python function of yours, as TRL calls it: f(prompts, completions, completion_ids, **columns), which returns a number for
    each completion, or None where it has none to give. `columns` are the fields of the lines, as lists."""

    kind: Literal["function"]
    file: Location
    """A Python file, which is run on the workers."""
    function: str = Field(pattern=r"^[A-Za-z_]\w*$")


Reward = Annotated[AnswerReward | PatternReward | FunctionReward, Field(discriminator="kind")]


class RolloutConfig(StrictModel):
    """vLLM engines that answer with the weights of the step before."""

    num_engines: int = Field(1, ge=1)
    """The prompts of a step are shared out among them."""
    gpus_per_engine: int = Field(0, ge=0)
    """Beside those of the workers. 0 answers on CPUs, in turns with the workers, on whose cores the engines compute."""
    kv_cache_gib: float = Field(1.0, gt=0)
    """Of an engine on CPUs."""
    pool: Pool = "train"


class GrpoConfig(StrictModel):
    """Group relative policy optimization (Shao et al. 2024, arXiv 2402.03300, section 4), by TRL: of several answers that the model
    gives to a prompt, more of those with the higher rewards. No model is held beside it for comparison: TRL's default, beta 0."""

    kind: Literal["grpo"] = "grpo"
    path: Location
    """JSONL with `prompt` (text, or a list of messages) and what the rewards take; all lines with the same fields."""
    rewards: tuple[Reward, ...] = Field(min_length=1)
    num_generations: int = Field(8, ge=2)
    """Answers to a prompt, whose rewards are compared with each other."""
    max_completion_tokens: int = Field(256, ge=1)
    """Of an answer. Prompt and answer fit into sequence_length together."""
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    loss: Literal["dapo", "grpo", "dr_grpo"] = "dapo"
    """How the tokens of answers of different lengths are weighed (TRL's `loss_type`); those whose result does not depend on how a
    step is shared out."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """What an answer's distance to its group's mean reward is divided by: the standard deviation of the group, or of all."""
    rollouts: RolloutConfig = RolloutConfig()

    @model_validator(mode="after")
    def _named_once(self) -> GrpoConfig:
        names = [reward.name for reward in self.rewards]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"names of rewards must differ, repeated: {', '.join(repeated)}")
        return self
