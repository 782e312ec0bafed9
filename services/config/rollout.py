"""How a candidate becomes stable: steps, margins, effects, levels."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from cluster.config import StrictModel
from services.config.probes import ProbesConfig

Metric = Literal["errors", "ttft", "tpot", "quality", "feedback"]
"""What a canary is judged by: harmful answers, time to the first token, time per output token, paired scores; where a recipe asks
for it, users' thumbs."""
METRICS: Final[tuple[Metric, ...]] = ("errors", "ttft", "tpot", "quality")
"""Those of every rollout."""
MIN_HARMED_USERS: Final = 3
"""Errors that fewer different users show never fail a canary: one whose first answer at each step happens to fail is one user."""


class StepConfig(StrictModel):
    """One step of a rollout."""

    weight_percent: float = Field(ge=0, le=100)
    """Share of users on the canary. 0, for the first step alone: it has none, and is judged by its replies to copied requests
    (`serve.shadow.percent`)."""
    min_requests: int = Field(50, ge=1)
    """Requests the canary must have answered at this step before it may pass. Those of a user between a harm and its next good
    answer do not count."""
    min_duration_s: float = Field(60, ge=0)
    prove: tuple[Metric, ...] = ("errors", "ttft")
    """Metrics for which a harm of the effect's size must be excluded before the step passes; `none` waits for no proof, and
    harm is still watched for. Time per token and quality are not asked for unless told so: not every model streams, and not
    every rollout has probes. At 0 % it is errors alone: copies tell nothing of waits."""
    error_effect_percent: float | None = Field(default=None, gt=0, lt=100)
    """Effect to be excluded at this step, where it is not the rollout's: a small step proves little in good time."""
    latency_effect_ratio: float | None = Field(default=None, gt=1)
    quality_effect_percent: float | None = Field(default=None, gt=0, lt=100)
    down_effect_percent: float | None = Field(default=None, gt=0, lt=100)

    @model_validator(mode="before")
    @classmethod
    def _prove_what_can_be_compared(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("weight_percent") == 0:
            return {"prove": ("errors",), **given}
        if isinstance(given, dict) and given.get("weight_percent") == 100:
            return {"prove": (), **given}
        return given

    @model_validator(mode="after")
    def _no_waits_of_copies(self) -> StepConfig:
        if self.weight_percent == 0 and {"ttft", "tpot", "feedback"} & set(self.prove):
            told = "copies tell nothing of waits, and nobody votes on them"
            raise ValueError(f"{told}: a step at 0 % cannot prove ttft, tpot or feedback")
        return self

    @model_validator(mode="after")
    def _nobody_beside_everybody(self) -> StepConfig:
        if self.weight_percent == 100 and (wanted := [metric for metric in self.prove if metric != "quality"]):
            raise ValueError(
                f"at 100 % nobody is on stable, so {' and '.join(wanted)} cannot be proven by comparison: prove them at a step "
                "below 100, and leave `prove` out here (or `prove: quality`, which probes ask of both revisions)"
            )
        return self

    @field_validator("prove", mode="before")
    @classmethod
    def _listed(cls, prove: object) -> object:
        """`none` and a single name need no list in a recipe."""
        if isinstance(prove, str):
            return () if prove == "none" else (prove,)
        return prove


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
    feedback: bool = False
    """Whether users' thumbs (`POST /v1/feedback`) are a fifth metric of the verdict. Off: they are counted and shown. On, each
    metric has a fifth of alpha instead of a quarter, and users can take a canary out by their votes: docs/rollouts.md says when
    that is wise."""
    max_down_increase_percent: float = Field(5.0, ge=0, lt=100)
    """Margin: thumbs down the canary may have above stable's share, in percentage points. Few vote and tastes differ: another
    tone alone, or a longer answer, moves the share by a few points."""
    down_effect_percent: float = Field(15.0, gt=0, lt=100)
    """Effect: so many more points of thumbs down must not pass unseen, as from 10 to 25 %."""
    alpha: float = Field(0.01, gt=0, lt=0.5)
    """Chance that a canary within all margins is ever rolled back, over the whole rollout, all looks and metrics together."""
    beta: float = Field(0.05, gt=0, lt=0.5)
    """Chance that a canary worse by an effect passes a step that excludes it, however often one looks."""
    when_busy: Literal["refuse", "wait", "replace"] = "refuse"
    """A new candidate while a rollout is under way: `refuse` it; let it `wait`, and begin by itself when that one has ended (a
    newer one takes an older one's place); or `replace`: take the present candidate out, then begin."""
    step_timeout_s: float = Field(3600, gt=0)
    """A step without enough evidence for so long is rolled back as inconclusive."""
    few_users_timeout_s: float = Field(120, gt=0)
    """The same, from when the step's weight is in force, where ten or more answers were harmful, up by the effect over all,
    one or two users alone have shown harm that counts in this rollout, and fewer than `min_requests` answers count: nobody else is
    there to tell these users' fault from the canary's."""
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
        if weights[-1] == 0:
            raise ValueError("copies alone promote nobody: add a step with users after that at 0 %")
        if next(weight for weight in weights if weight) >= 100:
            raise ValueError("the first step leaves nobody on stable to compare with: begin below 100")
        return steps

    @model_validator(mode="after")
    def _effects_beyond_margins(self) -> RolloutConfig:
        fields: dict[Metric, str] = {"errors": "error_effect_percent", "ttft": "latency_effect_ratio",
                                     "quality": "quality_effect_percent", "feedback": "down_effect_percent"}  # fmt: skip
        for metric, field in fields.items():
            if min(self.effects(metric)) <= self.margin(metric):
                raise ValueError(f"{field} must lie beyond the margin: no test tells the two apart")
        return self

    @model_validator(mode="after")
    def _votes_to_prove_by(self) -> RolloutConfig:
        if not self.feedback and any("feedback" in step.prove for step in self.steps):
            raise ValueError("a step is to prove feedback, and votes do not count: set rollout.feedback: true")
        return self

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """All that this rollout is judged by."""
        return (*METRICS, "feedback") if self.feedback else METRICS

    @property
    def begins_with_copies(self) -> bool:
        """Whether the canary is judged by its replies to copied requests before it gets users."""
        return self.steps[0].weight_percent == 0

    def margin(self, metric: Metric) -> float:
        """What is tolerated: a difference of shares, a ratio of waits, or a drop of the mean score."""
        match metric:
            case "errors":
                return self.max_error_increase_percent / 100
            case "quality":
                return self.max_quality_drop_percent / 100
            case "feedback":
                return self.max_down_increase_percent / 100
            case _:
                return self.max_latency_ratio

    def effect(self, metric: Metric, step: StepConfig | None = None) -> float:
        """What must not pass unseen, at that step or throughout, in the margin's unit."""
        match metric:
            case "errors":
                return ((step and step.error_effect_percent) or self.error_effect_percent) / 100
            case "quality":
                return ((step and step.quality_effect_percent) or self.quality_effect_percent) / 100
            case "feedback":
                return ((step and step.down_effect_percent) or self.down_effect_percent) / 100
            case _:
                return (step and step.latency_effect_ratio) or self.latency_effect_ratio

    def effects(self, metric: Metric) -> tuple[float, ...]:
        """All that some step excludes, and the rollout's own, in order."""
        return tuple(sorted({self.effect(metric), *(self.effect(metric, step) for step in self.steps)}))

    def too_few(self, num_users: int) -> str | None:
        """Why errors may not be found when no more than that many users there are; None when they are enough."""
        last = self.steps[-1].weight_percent
        seen = num_users * last / 100
        if (num_users if self.begins_with_copies else seen) >= MIN_HARMED_USERS:
            return None
        advice = "" if self.probes.sets else ". Let golden probes judge it as well (rollout.probes)"
        return (
            f"of {num_users} users about {seen:.2g} are on the canary at {last:g} %, the last step, and errors are found when "
            f"{MIN_HARMED_USERS} different users meet them: a canary that fails may only be out as inconclusive "
            f"(few_users_timeout_s, step_timeout_s){advice}"
        )

    @property
    def caveats(self) -> tuple[str, ...]:
        """What these settings cannot do, for whoever checks a recipe."""
        if self.steps[-1].weight_percent < 100:
            return ()
        return (
            "rollout.steps: the step at 100 % leaves nobody on stable to compare with. It waits for min_requests and "
            "min_duration_s and proves nothing; errors are held against stable's past, so an outage of everything is taken for the "
            "canary's fault, and waits are not judged. A last step at 50 % judges both sides under one load",
        )
