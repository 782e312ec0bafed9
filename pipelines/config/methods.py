"""What is learnt from what. No heavy imports here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from cluster.config import Location, StrictModel
from pipelines.config.rewards import GrpoConfig


class CausalConfig(StrictModel):
    """Every token of the dataset's documents from those before it."""

    kind: Literal["causal"] = "causal"


class InstructConfig(StrictModel):
    """The assistant's turns of conversations, by the model's chat template; what it is asked is no target."""

    kind: Literal["instruct"] = "instruct"
    path: Location
    """JSONL with `messages` (a list of `role` and `content` that ends with the assistant's), or `prompt` and `answer`."""


class PreferenceConfig(StrictModel):
    """Direct preference optimization (Rafailov et al. 2023, arXiv 2305.18290): of two answers, more of the chosen one."""

    kind: Literal["dpo"] = "dpo"
    path: Location
    """JSONL with `prompt` (text, or a list of messages), `chosen` and `rejected`."""
    beta: float = Field(0.1, gt=0)
    """How closely the model is kept to the one that training begins with: the larger, the closer."""
    heldout_percent: float = Field(10, ge=0, le=50)
    """Of the prompts: their pairs are not trained on, and how often the model prefers their chosen answers is measured before
    and after. 0 measures nothing."""
    heldout_seed: int = 0
    """Another one holds out other prompts."""


MethodConfig = Annotated[CausalConfig | InstructConfig | PreferenceConfig | GrpoConfig, Field(discriminator="kind")]


def kind_of(method: Any) -> Any:
    """Of a method that is not validated yet."""
    return method.get("kind") if isinstance(method, dict) else getattr(method, "kind", None)
