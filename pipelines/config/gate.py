"""What a model must show to be published. No heavy imports here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cluster.artifacts import OverlapRule
from cluster.config import StrictModel
from pipelines.config.quantization import Stratum

Comparison = Literal["trained vs base", "quantized vs trained", "quantized vs base"]
"""New against old: what training did, what quantization did, and both together."""


Priority = Literal["must", "should", "could"]
"""A failed must blocks, a failed should warns and is recorded, a could informs (MoSCoW)."""


class RequirementConfig(StrictModel):
    """What is asked of one comparison. Percents are points of a score (accuracy, chrF, exact match, F1: 0 to 100 %), and
    percent of a perplexity. Negative ones ask for an improvement."""

    compare: Comparison
    priority: Priority = "must"
    tasks: Literal["all", "scores", "perplexity"] | tuple[str, ...] = "all"
    """Names of tasks, or all of a kind: `scores` are all but perplexities. A task is asked by its first figure."""
    per: Literal["task"] | Stratum = "task"
    """Asked of each task whole, or of each language's or domain's items of it, each with a test of its own. Items from the held-out
    documents carry both; those of a file what their `language` and `domain` say, and without one they are in no slice."""
    margin_percent: float = Field(1.0, gt=-100, lt=100)
    """Loss you tolerate: failed when more than this is established."""
    effect_percent: float = Field(2.0, gt=-100, lt=100)
    """Loss that must not pass unseen: passed when one of this size is excluded. At least the margin."""
    min_recovery_percent: float | None = Field(None, gt=0)
    """Instead of a test: new / old (of perplexity old / new) on the figures as they are, which proves nothing. Not for a must."""

    @model_validator(mode="after")
    def _consistent(self) -> RequirementConfig:
        if self.margin_percent > self.effect_percent:
            raise ValueError(
                f"margin_percent ({self.margin_percent:g}) is above effect_percent ({self.effect_percent:g})"
            )
        if self.min_recovery_percent is None:
            return self
        if self.priority == "must":
            raise ValueError(
                "min_recovery_percent proves nothing, and a must rests on a test: make it a should or could"
            )
        if self.model_fields_set & {"margin_percent", "effect_percent"}:
            raise ValueError("min_recovery_percent stands for itself: leave margin_percent and effect_percent out")
        return self


class ContaminationLimit(StrictModel):
    """How many of a task's items may stand in the training documents."""

    tasks: Literal["all"] | Annotated[tuple[str, ...], Field(min_length=1)] = "all"
    """Names of tasks, or all that are measured: those of kind weat and canaries are not."""
    max_percent: float = Field(ge=0, le=100)
    """Of the task's items. Items too short to be looked for may be either: where it hangs on them, it is inconclusive."""
    rule: OverlapRule = "most_8_grams"
    """What makes an item contaminated: most of its runs of 8 words, or any of 13."""
    priority: Priority = "must"


DEFAULT_REQUIREMENTS = (
    # Training has to help: an effect of 0 is excluded when any improvement is established.
    RequirementConfig(compare="trained vs base", tasks="perplexity", margin_percent=0, effect_percent=0),
    RequirementConfig(compare="quantized vs trained", tasks="perplexity", margin_percent=2, effect_percent=5),
    RequirementConfig(compare="quantized vs base", tasks="scores"),
    RequirementConfig(compare="quantized vs base", tasks="scores", priority="should", min_recovery_percent=98),
    RequirementConfig(compare="quantized vs trained", tasks="scores", priority="could"),
)


class GateConfig(StrictModel):
    """What a model must show to be published as candidate: docs/evaluation.md."""

    requirements: tuple[RequirementConfig, ...] = DEFAULT_REQUIREMENTS
    contamination: tuple[ContaminationLimit, ...] = ()
    """A must that is not passed stops the run before the model is trained."""
    before_quantizing: bool = False
    """Judge what compares trained vs base once the trained model is evaluated: where a must is failed for certain, or cannot pass
    and `inconclusive_must` blocks, nothing is quantized."""
    alpha: float = Field(0.01, gt=0, lt=0.5)
    """Chance that a model within all margins fails any must; the same for any should, and any could (Holm 1979)."""
    beta: float = Field(0.05, gt=0, lt=0.5)
    """Chance that a model worse by a must's effect passes it, and so the gate, which takes all of them."""
    power: float = Field(0.8, gt=0.5, lt=1)
    """Chance of passing for which the report says how many items a model as good as the old one needs."""
    inconclusive_must: Literal["block", "publish"] = "block"
    """A must that is neither passed nor failed: `block`, since nobody has shown what was asked for; `publish` lets it
    through with a warning, for those who leave the proof to the rollout."""


def asked_of(requirement: RequirementConfig, task: str, is_perplexity: bool) -> bool:
    """Whether the requirement is asked of that task."""
    match requirement.tasks:
        case "all":
            return True
        case "perplexity" | "scores":
            return is_perplexity == (requirement.tasks == "perplexity")
        case _:
            return task in requirement.tasks
