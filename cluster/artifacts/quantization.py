"""Quantized models, and the search for the smallest that passes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cluster.artifacts.evaluation import Outcome, Speed
from cluster.artifacts.manifest import Manifest, Weights
from cluster.config import StrictModel, is_empty, is_none


def is_zero(value: object) -> bool:
    """For `exclude_if`: records made before there was such a field keep their digest."""
    return value == 0


class QuantizedModel(Weights):
    """A model saved as compressed-tensors. Its `config` is the scheme's settings."""

    kind: Literal["quantized"] = "quantized"
    scheme: str = ""
    num_weight_bytes_before: int = 0
    num_calibration_sequences: int = 0

    @property
    def kv_cache(self) -> str:
        """How an engine is to keep keys and values (`fp8`, `fp8_unscaled`); empty: in what it computes in."""
        return str(self.config.get("kv_cache", ""))

    @property
    def summary(self) -> str:
        before, after = self.num_weight_bytes_before, self.num_weight_bytes
        return f"{self.scheme}, {before / 1e6:.0f} MB -> {after / 1e6:.0f} MB ({after / before:.0%})"


class SliceFinding(StrictModel):
    """What a gate found of one scheme on one slice of the items."""

    name: str
    """The check's: <task, or a slice of one>: <new> vs <old>."""
    metric: str
    priority: Literal["must", "should", "could"]
    outcome: Outcome
    decided_by: str = Field("", exclude_if=is_empty)
    """As the check says it; empty where an earlier version did not."""
    old: float
    new: float
    recovery_percent: float
    """new / old, of a perplexity old / new; 100 where the old model scored nothing."""


class SchemeAttempt(StrictModel):
    """One scheme of a search, and what became of it."""

    scheme: str
    """For people, with its method."""
    outcome: Literal["passed", "refused", "skipped"]
    reason: str = ""
    """Why it was refused by the gate, or not tried."""
    weights: str = ""
    """Digest of the quantized model's manifest; empty where it was skipped, as are the next two."""
    report: str = ""
    gate: str = ""
    num_weight_bytes: int = 0
    num_cache_bytes_per_token: int = Field(0, exclude_if=is_zero)
    """Of the KV cache; 0 where it is not known."""
    speed: Speed | None = Field(None, exclude_if=is_none)
    took_s: float = 0.0
    """Quantizing, evaluating and judging."""
    slices: tuple[SliceFinding, ...] = ()


class SchemeSearch(Manifest):
    """Schemes tried from the smallest upward until one passed the gate."""

    kind: Literal["search"] = "search"
    chosen: str = ""
    """The scheme that passed; empty where none did."""
    why: str = ""
    """Why it ended without one."""
    attempts: tuple[SchemeAttempt, ...] = ()
    num_weight_bytes_before: int = 0

    @property
    def summary(self) -> str:
        return f"{self.chosen or 'none'} of " + ", ".join(f"{a.scheme} {a.outcome}" for a in self.attempts)
