"""Models that grow stage by stage, and what is predicted of them."""

from __future__ import annotations

from typing import Literal

from cluster.artifacts.manifest import Manifest, Weights
from cluster.config import StrictModel


class InitialModel(Weights):
    """The base model's architecture and tokenizer, in a size of its own, with random weights."""

    kind: Literal["initial"] = "initial"
    seed: int = 0


class Prediction(StrictModel):
    """A loss that a scaling law predicts for a run, in nats a token of held-out text."""

    num_parameters: int
    num_tokens: int
    loss: float
    low: float
    high: float
    confidence: float
    """Of the interval from low to high."""

    @property
    def text(self) -> str:
        return f"{self.loss:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @property
    def percent(self) -> float:
        """Half the interval's width, of the loss."""
        return 50 * (self.high - self.low) / self.loss


class Coefficient(StrictModel):
    """Of a scaling law: median, and the interval of the forecast's confidence."""

    median: float
    low: float
    high: float


class ForecastCheck(StrictModel):
    """One thing that must hold before a stage starts."""

    name: str
    passed: bool
    message: str


class Forecast(Manifest):
    """What the runs of the stages so far say of the next one, written before it starts, and whether it may."""

    kind: Literal["forecast"] = "forecast"
    stage: int = 0
    """The next one, from 1."""
    law: str = ""
    num_runs: int = 0
    num_sizes: int = 0
    coefficients: dict[str, Coefficient] = {}
    fit_error_percent: float = 0.0
    """Root mean square over the runs."""
    predictions: tuple[Prediction, ...] = ()
    """Of the next stage's runs; the last one is the stage's own."""
    goal: Prediction | None = None
    """Of the last stage."""
    checks: tuple[ForecastCheck, ...] = ()
    passed: bool = False

    @property
    def summary(self) -> str:
        verdict = "passed" if self.passed else "failed"
        of = f"{self.num_runs} run(s) of {self.num_sizes} size(s), fit error {self.fit_error_percent:.2g} %"
        found = self.predictions[-1]
        return f"{verdict}: loss {found.text} at {found.confidence:.0%} predicted from {of}"


class StageRun(Manifest):
    """What one run of a stage came to, next to what was predicted."""

    kind: Literal["stage_run"] = "stage_run"
    stage: int = 0
    """From 1."""
    num_parameters: int = 0
    num_tokens: int = 0
    """Trained on."""
    sequence_length: int = 0
    loss: float = 0.0
    """Of held-out documents, nats a token."""
    num_heldout_tokens: int = 0
    context_length: int = 0
    """Of the windows that it was measured in, the same for all stages."""
    prediction: Prediction | None = None
    """None in the first stage."""

    @property
    def is_as_predicted(self) -> bool | None:
        found = self.prediction
        return None if found is None else found.low <= self.loss <= found.high

    @property
    def summary(self) -> str:
        size = f"{self.num_parameters / 1e6:.3g} M parameters, {self.num_tokens / 1e6:.3g} M tokens: held-out loss {self.loss:.3f}"
        if self.prediction is None:
            return size
        inside = "inside" if self.is_as_predicted else "OUTSIDE"
        return f"{size}, predicted {self.prediction.text}: {inside}"
