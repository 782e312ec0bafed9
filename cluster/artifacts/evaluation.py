"""Scores, and the gate's verdict on them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cluster.artifacts.contamination import OverlapRule
from cluster.artifacts.manifest import Manifest
from cluster.config import StrictModel, is_empty, is_none


class Score(StrictModel):
    """One figure of one task on one model."""

    task: str
    metric: str
    value: float
    ci_low: float
    ci_high: float
    """95 % bootstrap interval over items."""
    num_items: int
    higher_is_better: bool = True


class Rate(StrictModel):
    """Tokens that an engine writes, of all requests together."""

    num_requests: int
    """At once."""
    tokens_per_s: float


class Speed(StrictModel):
    """Of the engine that answered the items, on the machine that it ran on, with whatever else that was doing."""

    num_prompt_tokens: int
    num_written_tokens: int
    """Of each request."""
    rates: tuple[Rate, ...]
    ttft_s: float
    """To the first token of a request alone: the median of several."""

    @property
    def summary(self) -> str:
        rates = ", ".join(told(rate.tokens_per_s) for rate in self.rates)
        at = ", ".join(str(rate.num_requests) for rate in self.rates)
        return f"{rates} tokens/s at {at} requests, ttft {told(1000 * self.ttft_s)} ms"


def told(number: float) -> str:
    """Three digits, or all there are before the point."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


class EvalReport(Manifest):
    """Scores of one model; `items.parquet` has one row per item with the same ids for every model."""

    kind: Literal["evaluation"] = "evaluation"
    model: str = ""
    """Digest of the weights' manifest."""
    scores: tuple[Score, ...] = ()
    speed: Speed | None = Field(None, exclude_if=is_none)

    def score(self, task: str, metric: str = "") -> Score:
        """By default the task's first figure, which gates compare."""
        return next(s for s in self.scores if s.task == task and metric in ("", s.metric))

    @property
    def summary(self) -> str:
        return ", ".join(f"{s.task} {s.metric} {s.value:.4g} [{s.ci_low:.4g}, {s.ci_high:.4g}]" for s in self.scores)


class Difference(StrictModel):
    """A paired comparison of two models on the same items: `new - old` in the metric's unit."""

    task: str
    metric: str
    old: float
    new: float
    difference: float
    ci_low: float
    ci_high: float
    ratio: float
    """new / old."""
    num_items: int
    num_different: int | None = Field(None, exclude_if=is_none)
    """Items on which the two figures are not the same; None where an earlier version did not count them."""
    higher_is_better: bool = True


Outcome = Literal["passed", "failed", "inconclusive"]


class Finding(StrictModel):
    """One requirement of a gate on one task, and what was found."""

    name: str
    """<task>: <new> vs <old>, or contamination of <task>."""
    task: str
    priority: Literal["must", "should", "could"]
    outcome: Outcome
    message: str

    @property
    def decided_by(self) -> str:
        """A test, the figures as they are against a bound, or a count against a limit: for people."""
        raise NotImplementedError


class OverlapCheck(Finding):
    """How many of a task's items stand in the training documents. Every item is looked for, so no test is needed; those too short
    to be looked for may be either."""

    rule: OverlapRule
    num_items: int
    num_contaminated: int
    num_unmeasured: int
    max_percent: float
    """That is asked for."""
    percent_low: float
    """Of all items, if none of the unmeasured is contaminated; `percent_high` if all are."""
    percent_high: float
    items: str
    """Storage key of the table that has each item."""

    @property
    def decided_by(self) -> str:
        return {"most_8_grams": "limit, 8 words", "any_13_gram": "limit, 13 words"}[self.rule]


class Check(Finding):
    """A comparison of two models. Harm is how much worse the new model is: in points of a score (0 to 100), in percent of a
    perplexity; negative where it is better."""

    metric: str
    method: str
    """The test; empty where the figures are taken as they are."""
    num_items: int
    old: float
    new: float
    harm: float
    harm_low: float
    harm_high: float
    """One-sided bounds: at least `harm_low` with a confidence of 1 - alpha, at most `harm_high` with one of 1 - beta."""
    margin: float
    effect: float
    num_different: int | None = Field(None, exclude_if=is_none)
    """As in `Difference`."""
    p_margin: float | None = None
    """Of "the harm is the margin or less"."""
    p_margin_adjusted: float | None = None
    """The same after Holm's adjustment over all tests of that priority: failed when at most alpha."""
    p_effect: float | None = None
    """Of "the harm is the effect or more": passed when at most beta."""
    num_items_if_equal: int | None = None
    """Items on which a model as good as the old one passes with a chance of `power`; None: out of reach."""
    num_items_if_as_found: int | None = None
    """Items on which the harm as found would be settled, one way or the other."""

    @property
    def decided_by(self) -> str:
        return "paired test" if self.method else "recovery, no test"


class GateReport(Manifest):
    """The verdict on a model. `differences` maps "trained vs base", "quantized vs trained", "quantized vs base"."""

    kind: Literal["gate"] = "gate"
    outcome: Outcome = "inconclusive"
    """Of the musts together: failed when one failed, else inconclusive when one is, else passed."""
    passed: bool = False
    """Whether the model may be published: the outcome is passed, or inconclusive and the recipe lets that through."""
    before: Literal["", "train", "quantize"] = Field("", exclude_if=is_empty)
    """The stage that did not begin, because the verdict could only be no."""
    checks: tuple[Check, ...] = ()
    overlaps: tuple[OverlapCheck, ...] = Field((), exclude_if=is_empty)
    differences: dict[str, tuple[Difference, ...]] = {}
    clean_differences: dict[str, tuple[Difference, ...]] = Field({}, exclude_if=is_empty)
    """The same without the contaminated items, of tasks that have some and are asked for their contamination."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Of all requirements."""
        return (*self.overlaps, *self.checks)

    @property
    def missed(self) -> tuple[Finding, ...]:
        """Musts that were not passed."""
        return tuple(one for one in self.findings if one.priority == "must" and one.outcome != "passed")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """What people should know of a model that is let through."""
        return tuple(
            one
            for one in self.findings
            if one.outcome != "passed" and (one.priority == "should" or (one.priority == "must" and self.passed))
        )

    @property
    def summary(self) -> str:
        musts = [one for one in self.findings if one.priority == "must"]
        num_passed = sum(one.outcome == "passed" for one in musts)
        warned = f", {len(self.warnings)} warning(s)" if self.warnings else ""
        early = f" before the stage {self.before}" if self.before else ""
        return f"{self.outcome}{early}: {num_passed} of {len(musts)} musts passed{warned}"
