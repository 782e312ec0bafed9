"""Golden probes, and the watch over decay that asks them again."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cluster.config import Location, StrictModel

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
