"""What decisions rest on, in numbers. Pure data."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field

from cluster.config import StrictModel
from services.config import Metric
from services.contract import HARMFUL, RequestRecord, Role


class Counts(StrictModel):
    """What one side answered since the step began."""

    num_requests: int = Field(default=0, ge=0)
    """Answered or failed; what the client gave up is left out."""
    num_harmful: int = Field(default=0, ge=0)
    num_counted: int = Field(default=0, ge=0)
    """Of the requests, those that count as evidence for passing: none of a user's between a harm and its next good answer."""

    def plus(self, role: Role, records: Iterable[RequestRecord], num_counted: int) -> Counts:
        """These and that side's `records`, of which `num_counted` count."""
        outcomes = [record.outcome for record in records if record.role == role and record.outcome != "cancelled"]
        harmful = sum(outcome in HARMFUL for outcome in outcomes)
        return Counts(
            num_requests=self.num_requests + len(outcomes),
            num_harmful=self.num_harmful + harmful,
            num_counted=self.num_counted + num_counted,
        )


class Finding(StrictModel):
    """What is known of one metric. Logarithms are natural."""

    metric: Metric
    copies: bool = False
    """Of replies to copied requests, against stable's answers to requests that could have been copied as well."""
    num_stable: int = Field(default=0, ge=0)
    num_canary: int = Field(default=0, ge=0)
    """Counted in the whole rollout; for quality, items."""
    log_harm: float = 0.0
    """Of the e-value against "no worse than the margin allows"."""
    effects: tuple[float, ...] = ()
    log_pass: tuple[float, ...] = ()
    """Of the e-values against "worse by the effect", for each of `effects`."""
    growth: tuple[float, ...] = ()
    """What a request (for quality: an item) of a canary as good as stable adds to those."""
    stable: float = 0.0
    canary: float = 0.0
    """Harmful share; share beyond the limit of the highest quantile; for quality the mean difference is the canary's."""
    num_users: int | None = None
    """Different users whose answers of the canary were harmful and count, in the whole rollout; for errors."""
    harms: tuple[tuple[str, int], ...] = ()
    """How the canary's answers were harmful, for errors; the most frequent first."""


class Evidence(StrictModel):
    """Everything a decision rests on, in numbers."""

    look: int = Field(default=0, ge=0)
    """Number of the last look that saw records."""
    stable: Counts = Counts()
    canary: Counts = Counts()
    stable_before: Counts = Counts()
    """What stable answered in the newest stretch before in which it had requests: all there is when everybody is on the canary."""
    findings: tuple[Finding, ...] = ()
