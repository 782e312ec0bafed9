"""The requests of simulated rollouts: when they come, how long their prompts are, and how long they wait."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.config import RolloutConfig
from services.rollout.latency import NUM_STRATA, STRATA

Array = NDArray[np.float64]
DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
CONFIG = RolloutConfig()
RATE_PER_S = 50.0
SCHEDULE = ((0.01, 1200.0), (0.05, 600.0), (0.25, 300.0), (0.5, 300.0))
"""Share of users on the canary, and for how many seconds: the default steps, at times that all judges share."""
LATE_SCHEDULE = (*SCHEDULE[:-1], (0.5, 1200.0))
"""With a last step long enough for harm to begin in its middle, LATE_S after the rollout's beginning."""
LATE_S = sum(seconds for _, seconds in LATE_SCHEDULE) - 600
MINUTES = int(sum(seconds for _, seconds in SCHEDULE) // 60)
SPREAD = 0.4
"""Standard deviation of the logarithm of waits for prompts of one length."""


@dataclass(frozen=True)
class Trace:
    """Arrivals in seconds, scaled to RATE_PER_S and repeated without end, with prompt tokens."""

    name: str
    arrivals_s: Array
    tokens: NDArray[np.int64]

    @property
    def period_s(self) -> float:
        return len(self.arrivals_s) / RATE_PER_S

    def between(self, starts_s: Array, ends_s: Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Numbers of the first request of each interval and of the first one after it."""
        return self._count(starts_s), self._count(ends_s)

    def _count(self, moments_s: Array) -> NDArray[np.int64]:
        rounds, rest = np.divmod(moments_s, self.period_s)
        return (rounds * len(self.arrivals_s) + np.searchsorted(self.arrivals_s, rest)).astype(np.int64)


def load_traces(generator: np.random.Generator) -> list[Trace]:
    """The real traces that are there, or Poisson arrivals."""
    found = []
    azure = DATA / "trace_azure" / "AzureLLMInferenceTrace_code.csv"
    if azure.exists():
        with azure.open() as lines:
            rows = [
                (datetime.fromisoformat(r["TIMESTAMP"][:26]).timestamp(), int(r["ContextTokens"]))
                for r in csv.DictReader(lines)
            ]
        found.append(_scaled("Azure 2023 code", rows))
    mooncake = DATA / "trace_mooncake" / "synthetic_trace.jsonl"
    if mooncake.exists():
        records = map(json.loads, mooncake.read_text().splitlines())
        found.append(_scaled("Mooncake", [(r["timestamp"] / 1000, r["input_length"]) for r in records]))
    if not found:
        print(f"no traces in {DATA}: Poisson arrivals instead")
        moments, tokens = generator.uniform(0, 1, 10_000), generator.lognormal(6.5, 1, 10_000)
        found.append(_scaled("Poisson", list(zip(moments, tokens, strict=True))))
    return found


def _scaled(name: str, rows: list[tuple[float, float]]) -> Trace:
    rows.sort()
    moments, tokens = np.array(rows).T
    span = (moments - moments[0]) / (moments[-1] - moments[0] + 1e-9)
    return Trace(name, span * (len(rows) - 1) / RATE_PER_S, tokens.astype(np.int64))


def looks(
    trace: Trace,
    generator: np.random.Generator,
    num_rollouts: int,
    interval_s: float,
    schedule: tuple[tuple[float, float], ...] | None = None,
) -> Iterator[tuple[float, float, NDArray[np.int64], NDArray[np.int64]]]:
    """For each look: its moment, the weight, and each rollout's first and last request."""
    offset_s = generator.uniform(0, trace.period_s, num_rollouts)
    now = 0.0
    for weight, seconds in schedule or SCHEDULE:
        for _ in range(int(seconds / interval_s)):
            yield now, weight, *trace.between(offset_s + now, offset_s + now + interval_s)
            now += interval_s


class WaitModel:
    """Waits grow with the prompt, 0.2 s and 0.1 ms a token, and scatter. The canary's are 30 % longer, or some of them:

    `all`; `tail`, those above stable's 90th percentile for prompts of that length; `long`, prompts over 4,096 tokens.
    """

    def __init__(self, trace: Trace) -> None:
        generator = np.random.default_rng(0)
        self._tokens = np.tile(trace.tokens, 40)
        self._stratum = stratum(self._tokens)
        self._stable_s = self.stable_s(self._tokens, generator)
        self.p90_s, self.p95_s = (self._by_stratum(level) for level in (0.9, 0.95))

    def stable_s(self, tokens: NDArray[np.int64], generator: np.random.Generator) -> Array:
        return (0.2 + 1e-4 * tokens) * np.exp(SPREAD * generator.standard_normal(len(tokens)))

    def _by_stratum(self, level: float) -> Array:
        found = [self._stable_s[self._stratum == number] for number in range(NUM_STRATA)]
        return np.array([np.quantile(seconds, level) if len(seconds) else np.inf for seconds in found])

    def canary_s(self, tokens: NDArray[np.int64], seconds: Array, slower: str) -> Array:
        match slower:
            case "all":
                return 1.3 * seconds
            case "tail":
                return np.where(seconds > self.p90_s[stratum(tokens)], 1.3 * seconds, seconds)
            case "long":
                return np.where(tokens > 4096, 1.3 * seconds, seconds)
            case _:
                return seconds

    def share_late(self, slower: str) -> float:
        """Of the canary's waits, beyond margin x stable's p95 for prompts of that length."""
        canary_s = self.canary_s(self._tokens, self._stable_s, slower)
        return float((canary_s > CONFIG.margin("ttft") * self.p95_s[self._stratum]).mean())


def stratum(tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    return 1 + np.searchsorted(STRATA, tokens, side="left")
