"""Who rolls back what, and after how many requests: our verdict and other systems', over the same simulated rollouts.

    python benchmarks/bench_judges.py [--rollouts 2000] [--seed 1]

Arrivals and prompt lengths are those of real traces where they are there (../shared/data, see INDEX.md), scaled to 50 requests
a second with their bursts kept; outcomes and waits are drawn. Every judge sees the same requests. Ours are judged by the very
classes that decide rollouts, with many rollouts side by side in their arrays.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import peer_judges as peers
from judge_traffic import (
    CONFIG,
    LATE_S,
    LATE_SCHEDULE,
    MINUTES,
    RATE_PER_S,
    SCHEDULE,
    Trace,
    WaitModel,
    load_traces,
    looks,
    stratum,
)
from numpy.typing import NDArray
from scipy import stats

from services.rollout.errors import HARM_WEIGHTS, ErrorTest
from services.rollout.late import LATE_SHARE, LateHarm
from services.rollout.latency import NUM_STRATA, LatencyTest, Waits
from services.rollout.policy import MIN_CANARY_REQUESTS, harm_level
from services.rollout.quality import QualityTest
from services.rollout.rates import BOUND_SHARE, mix_beginnings
from services.rollout.sequential import mix

Array = NDArray[np.float64]
LEVEL, POWER = harm_level(CONFIG), 0.95
BASE_RATE, WORSE_RATE = 0.005, 0.025
CHUNK = 200
"""Rollouts simulated at once: what fits into caches and memory."""


# --- what came out ------------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """One judge over many rollouts: canary requests (items) until it rolled back, and canary users harmed until then."""

    needed: Array
    harmed: Array
    fixed: Array
    """What the fixed-sample test of the metric's level needs, on the rollout's trace."""

    @property
    def rolled_back(self) -> NDArray[np.bool_]:
        return np.isfinite(self.needed)


def join(parts: list[dict[str, Outcome]]) -> dict[str, Outcome]:
    return {
        name: Outcome(
            *(np.concatenate([getattr(p[name], field) for p in parts]) for field in ("needed", "harmed", "fixed"))
        )
        for name in parts[0]
    }


def fails(log_harm: Array) -> NDArray[np.bool_]:
    """As the policy has it."""
    return log_harm >= -math.log(LEVEL * (1 - BOUND_SHARE))


def at_minute(minute: Array, cumulative: Array, otherwise: float | None = None) -> Array:
    """`cumulative` (rollouts x minutes) when each rollout was rolled back; at the end, or `otherwise`, where it never was."""
    place = np.minimum(minute, cumulative.shape[1]).astype(int) - 1
    found = cumulative[np.arange(len(minute)), place]
    return found if otherwise is None else np.where(np.isfinite(minute), found, otherwise)


# --- errors -------------------------------------------------------------------------------------------------------------


def simulate_errors(
    trace: Trace, generator: np.random.Generator, num: int, worse: float, outage: bool = False
) -> dict[str, Outcome]:
    """`worse` is the canary's rate. In an outage both sides fail twenty times as often for three minutes of each step."""
    test, interval_s = (
        ErrorTest.start(CONFIG.margin("errors"), CONFIG.effect("errors"), CONFIG.effects("errors"), num),
        5.0,
    )
    stopped, seen, hits = np.full(num, np.inf), np.zeros(num), np.zeros(num)
    harmed = np.full(num, np.inf)
    series = np.zeros((4, num, MINUTES))  # canary's requests and harmful ones, a baseline's
    weight_before = SCHEDULE[0][0]
    for now, weight, first, last in looks(trace, generator, num, interval_s):
        if weight != weight_before:
            test, weight_before = test.restart(), weight
        factor = 20.0 if outage and now % 300 < 60 else 1.0
        canary = generator.binomial(last - first, weight)
        stable = last - first - canary
        bad = generator.binomial(canary, min(1, worse * factor))
        bad_stable = generator.binomial(stable, min(1, BASE_RATE * factor))
        test = test.take((stable, bad_stable), (canary, bad))
        seen, hits = seen + canary, hits + bad
        new = fails(test.log_harm) & np.isinf(stopped)
        stopped, harmed = np.where(new, seen, stopped), np.where(new, hits, harmed)
        series[:, :, int(now // 60)] += canary, bad, canary, generator.binomial(canary, min(1, BASE_RATE * factor))
    harmed = np.where(np.isinf(harmed), hits, harmed)
    fixed = np.full(num, fixed_binomial(BASE_RATE + CONFIG.margin("errors"), WORSE_RATE, LEVEL))
    return {"serinus": Outcome(stopped, harmed, fixed), **_peers_on_errors(series, fixed)}


def _peers_on_errors(series: Array, fixed: Array) -> dict[str, Outcome]:
    requests, bad, base, base_bad = series
    share, base_share = bad / np.maximum(requests, 1), base_bad / np.maximum(base, 1)
    told = (BASE_RATE + WORSE_RATE) / 2
    minutes = {
        "Flagger, documented (99 %, 5 checks)": peers.flagger(share > 0.01),
        "Flagger, told the limit (98.5 %)": peers.flagger(share > told),
        "Argo Rollouts, documented (95 % each 5 min, limit 3)": peers.argo(
            _over(requests, bad, 5) > 1 - peers.ARGO_SUCCESS, 5
        ),
        "Argo Rollouts, told the limit (98.5 %)": peers.argo(_over(requests, bad, 5) > told, 5),
        "Kayenta (Mann-Whitney, 98 %)": peers.kayenta(base_share, share),
    }
    total, harm = np.cumsum(requests, axis=1), np.cumsum(bad, axis=1)
    return {name: Outcome(at_minute(m, total, np.inf), at_minute(m, harm), fixed) for name, m in minutes.items()}


def _over(requests: Array, bad: Array, minutes: int) -> Array:
    """Share of the last `minutes`, each minute."""
    total, hits = (np.cumsum(np.pad(x, ((0, 0), (minutes, 0))), axis=1) for x in (requests, bad))
    return (hits[:, minutes:] - hits[:, :-minutes]) / np.maximum(total[:, minutes:] - total[:, :-minutes], 1)


LATE_WAYS = ("serinus", "without beginnings within a step")


# --- errors that begin late -----------------------------------------------------------------------------------------------


def simulate_late(trace: Trace, generator: np.random.Generator, num: int, worse: float) -> dict[str, Outcome]:
    """Ours with and without evidence that begins within a step. Needed are the canary's requests since LATE_S, when its rate
    becomes `worse`; infinite where it was never rolled back. Negative: rolled back before, when it was as good as stable."""
    test = ErrorTest.start(CONFIG.margin("errors"), CONFIG.effect("errors"), CONFIG.effects("errors"), num)
    stopped, harmed = ({way: np.full(num, np.inf) for way in LATE_WAYS} for _ in range(2))
    seen, before, hits, weight_before = np.zeros(num), np.zeros(num), np.zeros(num), LATE_SCHEDULE[0][0]
    for now, weight, first, last in looks(trace, generator, num, 5.0, LATE_SCHEDULE):
        if weight != weight_before:
            test, weight_before = test.restart(), weight
        canary = generator.binomial(last - first, weight)
        stable = last - first - canary
        bad = generator.binomial(canary, worse if now >= LATE_S else BASE_RATE)
        test = test.take((stable, generator.binomial(stable, BASE_RATE)), (canary, bad))
        before = before + (canary if now < LATE_S else 0)
        seen, hits = seen + canary, hits + (bad if now >= LATE_S else 0)
        for way, log_harm in zip(LATE_WAYS, (test.log_harm, _without_late(test)), strict=True):
            new = fails(log_harm) & np.isinf(stopped[way])
            stopped[way], harmed[way] = np.where(new, seen, stopped[way]), np.where(new, hits, harmed[way])
    fixed = np.full(num, fixed_binomial(BASE_RATE + CONFIG.margin("errors"), WORSE_RATE, LEVEL))
    return {way: Outcome(stopped[way] - before, np.minimum(harmed[way], hits), fixed) for way in LATE_WAYS}


def _without_late(test: ErrorTest) -> Array:
    return mix_beginnings(mix(test.rates.harm_by_beginning, HARM_WEIGHTS))


LATE_LOOK = 50
"""Requests (items: a fifth) between two looks, where waits and scores are simulated without a trace's pauses."""
GOOD_LOOKS, LATE_LOOKS = 80, 200
"""2,000 canary requests, or 800 items, as good as stable; then so many that are not."""


def simulate_late_waits(trace: Trace, generator: np.random.Generator, num: int, slower: str) -> dict[str, Outcome]:
    """As `simulate_late`, for waits at 50 %: `slower` from the middle on. Needed are the canary's requests since then."""
    test = LatencyTest.start(
        CONFIG.margin("ttft"), CONFIG.effect("ttft"), CONFIG.effects("ttft"), CONFIG.latency_floor_s, num
    )
    model, late = WaitModel(trace), _Late(num)
    rollout = np.repeat(np.arange(num), LATE_LOOK)
    for look in range(GOOD_LOOKS + LATE_LOOKS):
        tokens, canary = generator.choice(trace.tokens, len(rollout)), generator.random(len(rollout)) < 0.5
        seconds = model.stable_s(tokens, generator)
        if look >= GOOD_LOOKS:
            seconds[canary] = model.canary_s(tokens[canary], seconds[canary], slower)
        test = test.take(Waits(rollout * NUM_STRATA + stratum(tokens), canary, seconds, np.zeros(len(rollout), bool)))
        begun = replace(test, late=LateHarm.start(num, test.late.log_harm.shape[1]))
        if late.see(look, np.bincount(rollout[canary], minlength=num), test.log_harm, begun.log_harm):
            break
    return late.outcomes(fixed_waits(trace, slower, LEVEL) if slower != "no" else 0)


def simulate_late_quality(trace: Trace, generator: np.random.Generator, num: int, drop: float) -> dict[str, Outcome]:
    """The same for scores, of items."""
    late, size = _Late(num), LATE_LOOK // 5
    terms = CONFIG.margin("quality"), CONFIG.effect("quality"), CONFIG.effects("quality")
    tests = [QualityTest.start(*terms, num, late_share=share) for share in (LATE_SHARE, 0.0)]
    for look in range(GOOD_LOOKS + LATE_LOOKS):
        drawn = generator.random((num, size))
        down = DISCORDANT + (drop if look >= GOOD_LOOKS else 0.0)
        differences = np.where(drawn < down, -1.0, np.where(drawn > 1 - DISCORDANT, 1.0, 0.0)).ravel()
        tests = [test.take(np.repeat(np.arange(num), size), differences) for test in tests]
        if late.see(look, np.full(num, size), *(test.log_harm for test in tests)):
            break
    return late.outcomes(fixed_quality(LEVEL))


class _Late:
    """When each rollout was rolled back, with and without evidence that begins within a step."""

    def __init__(self, num: int) -> None:
        self.seen, self.before = np.zeros(num), np.zeros(num)
        self.stopped = {way: np.full(num, np.inf) for way in LATE_WAYS}

    def see(self, look: int, number: Array, *log_harms: Array) -> bool:
        """Whether all are rolled back."""
        self.seen = self.seen + number
        self.before = self.before + (number if look < GOOD_LOOKS else 0)
        for way, log_harm in zip(LATE_WAYS, log_harms, strict=True):
            new = fails(log_harm) & np.isinf(self.stopped[way])
            self.stopped[way] = np.where(new, self.seen, self.stopped[way])
        return bool(all(np.isfinite(stopped).all() for stopped in self.stopped.values()))

    def outcomes(self, fixed: int) -> dict[str, Outcome]:
        num = len(self.seen)
        return {
            way: Outcome(at - self.before, np.minimum(at, self.seen) - self.before, np.full(num, float(fixed)))
            for way, at in self.stopped.items()
        }


# --- errors, where users are few ------------------------------------------------------------------------------------------

NUM_KEYS = 20
TRAFFIC = 1 / np.arange(1, NUM_KEYS + 1) ** 0.7
"""Of the keys, the busiest one first: 18 % of all requests, the last one 2 %."""


@dataclass
class Keys:
    """Twenty API keys in each rollout: who is where, and how often each one's answers fail whoever gives them."""

    bucket: Array
    rate: Array

    @staticmethod
    def draw(generator: np.random.Generator, num: int, kind: str) -> Keys:
        """`even`: all alike. `uneven`: rates that scatter by a factor of e, same mean. `one bad`: every tenth answer of one key.
        `one dead`, `three dead`: every answer of the busiest keys."""
        rate = np.full((num, NUM_KEYS), BASE_RATE)
        if kind == "uneven":
            rate = BASE_RATE * np.exp(generator.standard_normal(rate.shape) - 0.5)
        elif kind == "one bad":
            rate[np.arange(num), generator.integers(NUM_KEYS, size=num)] = 0.1
        elif kind.endswith(" dead"):
            rate[:, : 1 if kind == "one dead" else 3] = 1.0
        return Keys(generator.random(rate.shape), rate)


@dataclass
class KeyCounts:
    """(answers, harmful ones) of stable and of the canary by the two rules of `counting`, in one look of many rollouts."""

    until_harm: list[tuple[Array, Array]]
    while_well: list[tuple[Array, Array]]


def count_keys(
    harmful: NDArray[np.bool_], counts: NDArray[np.int64], on_canary: NDArray[np.bool_], harmed: NDArray[np.bool_],
    failing: NDArray[np.bool_],
) -> KeyCounts:  # fmt: skip
    """`counting.until_harm` and `counting.while_well` for all keys at once: `harmful` has an axis of answers before the keys', of
    which the first `counts` are given. `harmed` and `failing` are changed."""
    seen = np.zeros((4, *counts.shape))
    for place, drawn in enumerate(harmful):
        here = place < counts
        harm = here & drawn
        first, well = here & ~harmed, here & ~failing
        seen += first, first & harm, well, well & harm
        harmed |= harm
        failing[:] = (failing & ~here) | harm
    sides = [[(seen[i] * side).sum(axis=1) for side in (~on_canary, on_canary)] for i in range(4)]
    until_harm, while_well = ([(sides[i][k], sides[i + 1][k]) for k in (0, 1)] for i in (0, 2))
    return KeyCounts(until_harm, while_well)


def simulate_keys(
    trace: Trace, generator: np.random.Generator, num: int, kind: str, increase: float
) -> dict[str, Outcome]:
    """Of each way to count: when it was rolled back (`needed`), and whether the last step was proven (`harmed`: 1 or 0)."""
    keys, interval_s = Keys.draw(generator, num, kind), 5.0
    shares = TRAFFIC / TRAFFIC.sum()
    ways = ("first harm", "again after a good answer")
    start = ErrorTest.start(CONFIG.margin("errors"), CONFIG.effect("errors"), CONFIG.effects("errors"), num)
    tests, last_effect = dict.fromkeys(ways, start), CONFIG.effects("errors").index(CONFIG.effect("errors"))
    stopped = {way: np.full(num, np.inf) for way in ways}
    proven = {way: np.zeros(num, bool) for way in ways}
    harmed, failing = (np.zeros(keys.rate.shape, bool) for _ in range(2))
    weight_before = SCHEDULE[0][0]
    for now, weight, first, last in looks(trace, generator, num, interval_s):
        if weight != weight_before:
            tests, weight_before = {way: test.restart() for way, test in tests.items()}, weight
            harmed[:] = failing
            proven = {way: np.zeros(num, bool) for way in ways}
        on_canary = keys.bucket < weight
        counts = generator.multinomial(last - first, np.broadcast_to(shares, keys.rate.shape))
        rate = keys.rate + increase * on_canary
        harmful = generator.random((int(counts.max(initial=0)), *counts.shape)) < rate
        found = count_keys(harmful, counts, on_canary, harmed, failing)
        for way, sides in zip(ways, (found.until_harm, found.while_well), strict=True):
            tests[way] = test = tests[way].take(*sides)
            enough = test.rates.closed.num_canary >= MIN_CANARY_REQUESTS
            stopped[way] = np.where(enough & fails(test.log_harm) & np.isinf(stopped[way]), now, stopped[way])
            proven[way] |= test.log_pass[:, last_effect] >= math.log(1 / CONFIG.beta)
    return {way: Outcome(stopped[way], proven[way].astype(float), np.ones(num)) for way in ways}


# --- waits --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """What peers see of a look: the canary's waits, and a baseline's of the same size, with their rollouts."""

    minute: int
    canary: tuple[NDArray[np.int64], Array]
    baseline: tuple[NDArray[np.int64], Array]


def simulate_waits(trace: Trace, generator: np.random.Generator, num: int, slower: str) -> dict[str, Outcome]:
    excluded, interval_s = CONFIG.effects("ttft"), 15.0
    test = LatencyTest.start(CONFIG.margin("ttft"), CONFIG.effect("ttft"), excluded, CONFIG.latency_floor_s, num)
    stopped, seen = np.full(num, np.inf), np.zeros(num)
    weight_before, samples = SCHEDULE[0][0], []
    model = WaitModel(trace)
    for now, weight, first, last in looks(trace, generator, num, interval_s):
        if weight != weight_before:
            test, weight_before = test.restart(), weight
        rollout = np.repeat(np.arange(num), last - first)
        place = np.arange(len(rollout)) - np.repeat(np.cumsum(last - first) - last, last - first)
        tokens, canary = trace.tokens[place % len(trace.tokens)], generator.random(len(rollout)) < weight
        seconds = model.stable_s(tokens, generator)
        seconds[canary] = model.canary_s(tokens[canary], seconds[canary], slower)
        cell = rollout * NUM_STRATA + stratum(tokens)
        test = test.take(Waits(cell, canary, seconds, np.zeros(len(rollout), bool)))
        seen = seen + np.bincount(rollout[canary], minlength=num)
        stopped = np.where(fails(test.log_harm) & np.isinf(stopped), seen, stopped)
        baseline = ~canary & (generator.random(len(canary)) < weight / (1 - weight))
        sides = ((rollout[side], seconds[side]) for side in (canary, baseline))
        samples.append(Sample(int(now // 60), *sides))
        if slower != "no" and np.isfinite(stopped).all() and now >= 2100:
            break
    fixed = np.full(num, fixed_waits(trace, slower, LEVEL) if slower != "no" else 0)
    ours = Outcome(stopped, np.where(np.isinf(stopped), seen, stopped), fixed)
    return {"serinus": ours, **_peers_on_waits(samples, num, fixed)}


def _peers_on_waits(samples: list[Sample], num: int, fixed: Array) -> dict[str, Outcome]:
    last = samples[-1].minute + 1
    p99, p95, base95, total = (np.zeros((num, last)) for _ in range(4))
    for minute in range(last):
        here = [sample for sample in samples if sample.minute == minute]
        who, waits = (np.concatenate([s.canary[part] for s in here]) for part in (0, 1))
        p99[:, minute], p95[:, minute] = _quantiles(who, waits, num, 0.99), _quantiles(who, waits, num, 0.95)
        total[:, minute] = np.bincount(who, minlength=num)
        who, waits = (np.concatenate([s.baseline[part] for s in here]) for part in (0, 1))
        base95[:, minute] = _quantiles(who, waits, num, 0.95)
    stable_s = np.concatenate([sample.baseline[1] for sample in samples])
    limit99, limit95 = (1.15 * np.quantile(stable_s, level) for level in (0.99, 0.95))
    five = slice(4, None, 5)
    over95 = np.zeros_like(p95, dtype=bool)
    over95[:, five] = p95[:, five] > limit95
    minutes = {
        "Flagger, documented (p99 at most 500 ms)": peers.flagger(p99 > 0.5),
        "Flagger, told the limit (p99 +15 %)": peers.flagger(p99 > limit99),
        "Argo Rollouts, told the limit (p95 +15 %)": peers.argo(over95, 5),
        "Kayenta (Mann-Whitney of p95, 98 %)": peers.kayenta(base95, p95),
    }
    total = np.cumsum(total, axis=1)
    return {name: Outcome(at_minute(m, total, np.inf), at_minute(m, total), fixed) for name, m in minutes.items()}


def _quantiles(who: NDArray[np.int64], waits: Array, num: int, level: float) -> Array:
    """Of each rollout's waits in a minute; 0 where there are none."""
    order = np.lexsort((waits, who))
    counts = np.bincount(who, minlength=num)
    ends = np.cumsum(counts)
    place = np.minimum(ends - counts + np.ceil(level * counts).astype(int) - 1, len(waits) - 1)
    return np.where(counts > 0, waits[order][np.maximum(place, 0)], 0.0)


# --- quality ------------------------------------------------------------------------------------------------------------

DISCORDANT = 0.05
"""Share of items that only the canary, and (without an effect) that only stable answers rightly."""
NUM_ITEMS = 4000


def simulate_quality(trace: Trace, generator: np.random.Generator, num: int, drop: float) -> dict[str, Outcome]:
    test = QualityTest.start(
        CONFIG.margin("quality"), CONFIG.effect("quality"), CONFIG.effects("quality"), num, late_share=LATE_SHARE
    )
    stopped, size = np.full(num, np.inf), 8
    for start in range(0, NUM_ITEMS, size):
        drawn = generator.random((num, size))
        differences = np.where(drawn < DISCORDANT + drop, -1.0, np.where(drawn > 1 - DISCORDANT, 1.0, 0.0))
        test = test.take(np.repeat(np.arange(num), size), differences.ravel())
        stopped = np.where(fails(test.log_harm) & np.isinf(stopped), start + size, stopped)
    return {"serinus": Outcome(stopped, np.zeros(num), np.full(num, fixed_quality(LEVEL)))}


# --- the fixed-sample tests, told the right moment ------------------------------------------------------------------------


def fixed_binomial(border: float, worse: float, level: float) -> int:
    """Requests of an exact one-sided binomial test that is even told stable's rate."""
    n = np.arange(20, 40_000)
    critical = stats.binom.isf(level, n, border)
    return int(n[stats.binom.sf(critical, n, worse) >= POWER][0])


def fixed_waits(trace: Trace, slower: str, level: float) -> int:
    """The same for the share of waits beyond margin x stable's p95, which it is told for each prompt length."""
    if slower == "long":  # told which prompts to look at, and waiting for enough of them
        return math.ceil(fixed_waits(trace, "all", level) / (trace.tokens > 4096).mean())
    return fixed_binomial(0.05, WaitModel(trace).share_late(slower), level)


def fixed_quality(level: float, drop: float = 0.05) -> int:
    """A paired z-test, with the variance that the sample has."""
    deviation = math.sqrt(2 * DISCORDANT + drop - drop**2)
    quantiles = stats.norm.isf(level) + stats.norm.ppf(POWER)
    return math.ceil((quantiles * deviation / (drop - CONFIG.margin("quality"))) ** 2)


# --- the report -----------------------------------------------------------------------------------------------------------


def interval(hits: int, num: int) -> str:
    """Clopper & Pearson's of 95 %, in percent."""
    low = stats.beta.ppf(0.025, hits, num - hits + 1) if hits else 0.0
    high = stats.beta.ppf(0.975, hits + 1, num - hits) if hits < num else 1.0
    return f"{hits / num:.2%} [{low:.2%}, {high:.2%}]"


def report_null(title: str, found: dict[str, Outcome]) -> None:
    print(f"\n### {title}\n\n| judge | false rollbacks [95 % interval] |\n|---|---|")
    for name, outcome in found.items():
        print(f"| {name} | {interval(int(outcome.rolled_back.sum()), len(outcome.needed))} |")


def report_harm(title: str, found: dict[str, Outcome], unit: str, harm: str) -> None:
    told = np.unique(found["serinus"].fixed).astype(int)
    print(
        f"\n### {title}\n\nA fixed-sample test told the right moment needs {' or '.join(map(str, told))} {unit} (by trace).\n"
    )
    head = ("judge", "missed", f"{unit}: median", "mean", "p95", "p95 / fixed", "found within 1.5 x fixed", harm)
    print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|")
    for name, outcome in found.items():
        hit, num = outcome.needed[outcome.rolled_back], len(outcome.needed)
        p95, ratio = (np.quantile(x, 0.95, method="higher") for x in (outcome.needed, outcome.needed / outcome.fixed))
        shown = [f"{np.median(hit):.0f}", f"{hit.mean():.0f}"] if len(hit) else ["-", "-"]
        tail = [f"{p95:.0f}", f"{ratio:.2f}"] if np.isfinite(p95) else ["-", "-"]
        within = interval(int((outcome.needed <= 1.5 * outcome.fixed).sum()), num)
        row = (name, f"{1 - len(hit) / num:.1%}", *shown, *tail, within, f"{outcome.harmed.mean():.1f}")
        print(f"| {' | '.join(row)} |")


def report_keys(many: Callable[..., dict[str, Outcome]]) -> None:
    head = ("keys", "effect", "rolled back [95 % interval]", "if a key counted again after a good answer",
            "errors proven not up by 2 points at 50 %", "if a key did not count again")  # fmt: skip
    print("\n### Twenty keys\n\nHarm is judged by each key's answers up to its first harm, passing by all but those between a harm "
          f"and the next good answer.\n\n| {' | '.join(head)} |\n{'|---' * len(head)}|")  # fmt: skip
    kinds = {
        "even": "all alike",
        "uneven": "rates scatter by a factor of e",
        "one bad": "one fails every tenth answer",
        "one dead": "the busiest (18 % of all requests) fails always",
        "three dead": "the three busiest (38 %) fail always",
    }
    for increase in (0.0, 0.02):
        for number, (kind, title) in enumerate(kinds.items()):
            found = many(11 + number, simulate_keys, kind, increase)
            first, again = found["first harm"], found["again after a good answer"]
            back = [interval(int(way.rolled_back.sum()), len(way.needed)) for way in (first, again)]
            proven = [f"{way.harmed.mean():.1%}" for way in (again, first)]
            print(f"| {' | '.join((title, f'{increase:+.0%}' if increase else 'none', *back, *proven))} |")


def run(
    traces: list[Trace], num: int, seed: int, simulate: Callable[..., dict[str, Outcome]], *arguments: object
) -> dict[str, Outcome]:
    """`num` rollouts of one scenario, the traces in turn."""
    parts = []
    for part, start in enumerate(range(0, num, CHUNK)):
        generator = np.random.default_rng((seed, part))
        parts.append(simulate(traces[part % len(traces)], generator, min(CHUNK, num - start), *arguments))
    return join(parts)


def without_effect(many: Callable[..., dict[str, Outcome]]) -> None:
    calm, even = many(1, simulate_errors, BASE_RATE), many(3, simulate_waits, "no")
    same, tpot = many(4, simulate_quality, 0.0), many(10, simulate_waits, "no")
    report_null("No effect: errors 0.5 % on both sides", calm)
    outages = many(2, simulate_errors, BASE_RATE, True)
    report_null("No effect, but outages: both sides fail 20 times as often for a minute in five", outages)
    report_null("No effect: the same waits on both sides", even)
    metrics = [found["serinus"].rolled_back for found in (calm, even, tpot, same)]
    whole = np.where(np.any(metrics, axis=0), 1.0, np.inf)
    report_null(
        "No effect: rolled back by any of errors, ttft, tpot, quality", {"serinus": Outcome(whole, whole, whole)}
    )


def with_effects(many: Callable[..., dict[str, Outcome]]) -> None:
    requests = "canary requests"
    report_harm("Errors 0.5 % -> 2.5 %", many(5, simulate_errors, WORSE_RATE), requests, "harmful answers to users")
    with_late_effects(many)
    titles = {
        "all": "ttft +30 % for all requests (p95 +30 %)",
        "tail": "ttft +30 % for the slowest tenth only (p95 +30 %, median as before)",
        "long": "ttft +30 % for prompts over 4,096 tokens only",
    }
    for number, (slower, title) in enumerate(titles.items()):
        report_harm(title, many(6 + number, simulate_waits, slower), requests, "requests at the canary")
    report_harm("Accuracy -5 points", many(9, simulate_quality, 0.05), "items", "users harmed (probes harm none)")


def with_late_effects(many: Callable[..., dict[str, Outcome]]) -> None:
    """Harm from the middle of a step of 50 % for 20 minutes on, and what the test for it costs a canary on the margin."""
    found = many(14, simulate_late, WORSE_RATE)
    told = "Errors 0.5 % -> 2.5 % from the middle of the last step (50 % for 20 min)"
    report_harm(f"{told}: canary requests from then on", found, "canary requests", "harmful answers to users since")
    report_null("The same rollouts: rolled back before the harm began", {
        way: Outcome(np.where(one.needed < 0, 1.0, np.inf), one.harmed, one.fixed) for way, one in found.items()
    })  # fmt: skip
    report_null("As bad as the margin allows: errors 0.5 % -> 1.0 %, 50 % for 5 min at last",
                many(15, simulate_errors, BASE_RATE + CONFIG.margin("errors")))  # fmt: skip


def with_late_waits_and_scores(many: Callable[..., dict[str, Outcome]]) -> None:
    """The same for waits and scores; the false alarms are of canaries that never become worse."""
    terms = (
        ("ttft +30 % for all requests", simulate_late_waits, "all", "no", "canary requests"),
        ("ttft +30 % for the slowest tenth only", simulate_late_waits, "tail", None, "canary requests"),
        ("Accuracy -5 points", simulate_late_quality, 0.05, 0.0, "items"),
    )
    for number, (title, simulate, worse, none, unit) in enumerate(terms):
        found = many(20 + 2 * number, simulate, worse)
        report_harm(f"{title}, from the middle on", found, unit, f"{unit} from then on")
        if none is not None:
            report_null("The same without harm", many(21 + 2 * number, simulate, none))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=("keys", "late", "late waits"), help="twenty keys, or harm that begins late")
    given = parser.parse_args()
    traces = load_traces(np.random.default_rng(given.seed))
    began = time.monotonic()
    weights = ", ".join(f"{weight:.0%} for {seconds / 60:.0f} min" for weight, seconds in SCHEDULE)
    names = ", ".join(trace.name for trace in traces)
    print(f"{given.rollouts} rollouts a scenario; arrivals: {names}; {RATE_PER_S:g} requests/s; {weights}")

    def many(scenario: int, *what: object) -> dict[str, Outcome]:
        return run(traces, given.rollouts, 100 * given.seed + scenario, *what)  # type: ignore[arg-type]

    if given.only == "late":
        with_late_effects(many)
    if given.only == "late waits":
        with_late_waits_and_scores(many)
    if given.only is None:
        without_effect(many)
        with_effects(many)
    if given.only in (None, "keys"):
        report_keys(many)
    print(f"\ntook {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
