"""Thumbs as evidence: false rollbacks, and how many votes it takes, where users differ in how often and how kindly they vote.

    python benchmarks/bench_votes.py [--rollouts 2000] [--seed 1] [--crowd even|often|few|keys] [--schedule day|default]

Arrivals are those of the traces of bench_judges.py at 50 requests a second, of which VOTED are voted on. Who votes is drawn by
the users' own zeal. Ours is judged by the very class that decides rollouts; beside it the same test with other rules for whose
votes count, and the threshold that one would set by hand.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from bench_judges import Outcome, fixed_binomial, join, report_harm, report_null
from judge_traffic import RATE_PER_S, SCHEDULE, Trace, load_traces, looks
from numpy.typing import NDArray

from services.config import RolloutConfig
from services.rollout import votes
from services.rollout.findings import Finding
from services.rollout.policy import MIN_CANARY_VOTES, level_of

Array = NDArray[np.float64]
Sides = tuple[Array, Array]
Bools = NDArray[np.bool_]
CONFIG = RolloutConfig(feedback=True)
LEVEL = level_of(CONFIG, Finding(metric="feedback"))
VOTED = 0.02
"""Share of requests that are voted on."""
GOOD, BAD = 0.10, 0.25
"""Shares of thumbs down."""
DAY = tuple((weight, 7200.0) for weight, _ in SCHEDULE)
"""Two hours a step."""
NUM_USERS, CHUNK, LOOK_S = 50_000, 1000, 120.0
CROWDS = {
    "even": "all alike",
    "often": "a twentieth casts half of the votes and is hard to please",
    "few": "ten users cast a third of the votes and dislike everything",
    "keys": "twenty keys, each with a share of its own",
}
WAYS = ("serinus: a user counts once", "a user counts once on each side", "every vote counts")
THRESHOLD = "a threshold (50 votes, +10 points, 3 times)"


@dataclass
class Crowd:
    """Users by kind (the last axis), in each rollout: how many are where, and whose vote has counted."""

    dislike: Array
    """Share of the answers that each dislikes, rollouts x kinds."""
    zeal: Array
    """Share of all votes that one user of the kind casts."""
    stable: Array
    stable_seen: Array
    canary: Array
    canary_seen: Array
    """On whichever side the vote was."""
    canary_seen_here: Array

    @staticmethod
    def draw(generator: np.random.Generator, num: int, kind: str) -> Crowd:
        sizes, votes_of = np.array([float(NUM_USERS)]), np.array([1.0])
        dislike = np.full((num, 1), GOOD)
        match kind:
            case "often":  # 17.5 % and 2.5 %: 10 % of all votes
                sizes, votes_of = NUM_USERS * np.array([0.05, 0.95]), np.array([0.5, 0.5])
                dislike = np.tile([1.75 * GOOD, GOOD / 4], (num, 1))
            case "few":
                sizes, votes_of = np.array([10.0, NUM_USERS - 10]), np.array([1 / 3, 2 / 3])
                dislike = np.tile([1.0, GOOD], (num, 1))
            case "keys":
                sizes, votes_of = np.ones(20), np.full(20, 1 / 20)
                dislike = generator.beta(1, 9, (num, 20))
        none = np.zeros(dislike.shape)
        return Crowd(dislike, votes_of / sizes, none + sizes, none, none, none, none)

    def move(self, generator: np.random.Generator, share: float) -> None:
        """That share of stable's users goes to the canary."""
        seen = generator.binomial(self.stable_seen.astype(int), share)
        fresh = generator.binomial((self.stable - self.stable_seen).astype(int), share)
        self.stable, self.stable_seen = self.stable - seen - fresh, self.stable_seen - seen
        self.canary, self.canary_seen = self.canary + seen + fresh, self.canary_seen + seen

    def vote(self, generator: np.random.Generator, num_votes: Array, worse: float) -> dict[str, tuple[Sides, Sides]]:
        """(votes, thumbs down) of both sides that count in each way, of a look with `num_votes` of all users."""
        each = num_votes[:, None] * self.zeal
        at_all = 1 - np.exp(-each)

        def first(unseen: Array) -> Array:
            return generator.binomial(unseen.astype(int), at_all).astype(float)

        new_stable = first(self.stable - self.stable_seen)
        new_canary = first(self.canary - self.canary_seen)
        new_here = new_canary + first(self.canary_seen - self.canary_seen_here)
        self.stable_seen = self.stable_seen + new_stable
        self.canary_seen = self.canary_seen + new_canary
        self.canary_seen_here = self.canary_seen_here + new_here
        every = (generator.poisson(side * each).astype(float) for side in (self.stable, self.canary))
        worse_dislike = self.dislike + (1 - self.dislike) * (worse - GOOD) / (1 - GOOD)

        def sides(stable: Array, canary: Array) -> tuple[Sides, Sides]:
            down = (
                generator.binomial(number.astype(int), share).sum(axis=1)
                for number, share in ((stable, self.dislike), (canary, worse_dislike))
            )
            return (stable.sum(axis=1), next(down)), (canary.sum(axis=1), next(down))

        counted = ((new_stable, new_canary), (new_stable, new_here), tuple(every))
        return {way: sides(*pair) for way, pair in zip(WAYS, counted, strict=True)}


@dataclass(frozen=True)
class Scenario:
    crowd: str
    worse: float
    """The canary's share of thumbs down where stable's is GOOD."""
    schedule: tuple[tuple[float, float], ...]


def simulate(trace: Trace, generator: np.random.Generator, num: int, given: Scenario) -> dict[str, Outcome]:
    """Needed are votes on the canary that count; harmed, thumbs down it got in all."""
    crowd = Crowd.draw(generator, num, given.crowd)
    tests = {way: votes.start(CONFIG, num) for way in WAYS}
    stopped, harmed = ({way: np.full(num, np.inf) for way in (*WAYS, THRESHOLD)} for _ in range(2))
    down_all, watch, before = np.zeros(num), Threshold(num), 0.0
    for _, weight, first, last in looks(trace, generator, num, LOOK_S, given.schedule):
        if weight > before:
            crowd.move(generator, (weight - before) / (1 - before))
            before = weight
        found = crowd.vote(generator, generator.binomial(last - first, VOTED), given.worse)
        every = found[WAYS[-1]]
        down_all += every[1][1]
        for way, sides in found.items():
            tests[way] = test = tests[way].take(*sides)
            seen = test.rates.closed.num_canary
            fails = (test.log_harm >= -math.log(LEVEL)) & (seen >= MIN_CANARY_VOTES)
            _stop(fails, seen, down_all, stopped[way], harmed[way])
        watch.see(*every)
        _stop(watch.fails, watch.seen, down_all, stopped[THRESHOLD], harmed[THRESHOLD])
    fixed = np.full(num, fixed_binomial(GOOD + CONFIG.margin("feedback"), BAD, LEVEL))
    return {
        way: Outcome(stopped[way], np.where(np.isinf(harmed[way]), down_all, harmed[way]), fixed) for way in stopped
    }


def _stop(fails: Bools, seen: Array, down: Array, stopped: Array, harmed: Array) -> None:
    new = fails & np.isinf(stopped)
    stopped[new], harmed[new] = seen[new], down[new]


class Threshold:
    """At each look: are thumbs down, over all votes of the rollout, up by ten points? Three times in a row."""

    def __init__(self, num: int) -> None:
        self._sides = np.zeros((4, num))
        self._in_a_row = np.zeros(num)

    def see(self, stable: tuple[Array, Array], canary: tuple[Array, Array]) -> None:
        self._sides += np.stack([*stable, *canary])
        n_s, down_s, n_c, down_c = self._sides
        over = (n_c >= 50) & (down_c / np.maximum(n_c, 1) > down_s / np.maximum(n_s, 1) + 0.10)
        self._in_a_row = np.where(over, self._in_a_row + 1, 0)

    @property
    def fails(self) -> Bools:
        return np.asarray(self._in_a_row >= 3)

    @property
    def seen(self) -> Array:
        return self._sides[2]


def run(traces: list[Trace], num: int, seed: int, given: Scenario) -> dict[str, Outcome]:
    parts = []
    for part, start in enumerate(range(0, num, CHUNK)):
        generator = np.random.default_rng((seed, part))
        parts.append(simulate(traces[part % len(traces)], generator, min(CHUNK, num - start), given))
    return join(parts)


def report(many: Callable[[str, float], dict[str, Outcome]], chosen: list[str]) -> None:
    for crowd in chosen:
        report_null(f"{CROWDS[crowd]}: no effect", many(crowd, GOOD))
        border = GOOD + CONFIG.margin("feedback")
        report_null(f"{CROWDS[crowd]}: as many more as the margin allows", many(crowd, border))
        found = many(crowd, BAD)
        found = {"serinus": found.pop(WAYS[0]), **found}
        report_harm(f"{CROWDS[crowd]}: thumbs down 10 % -> 25 %", found, "votes", "thumbs down")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--crowd", choices=tuple(CROWDS), help="one alone")
    parser.add_argument(
        "--schedule", choices=("day", "default"), default="day", help="two hours a step, or bench_judges.py's"
    )
    given = parser.parse_args()
    traces = load_traces(np.random.default_rng(given.seed))
    schedule = DAY if given.schedule == "day" else SCHEDULE
    began = time.monotonic()
    weights = ", ".join(f"{weight:.0%} for {seconds / 60:.0f} min" for weight, seconds in schedule)
    names = ", ".join(trace.name for trace in traces)
    print(
        f"{given.rollouts} rollouts a scenario; arrivals: {names}; {RATE_PER_S:g} requests/s, {VOTED:.0%} voted on; {weights}"
    )

    def many(crowd: str, worse: float) -> dict[str, Outcome]:
        seed = 1000 * given.seed + 10 * list(CROWDS).index(crowd) + round(20 * worse)
        return run(traces, given.rollouts, seed, Scenario(crowd, worse, schedule))

    report(many, [given.crowd] if given.crowd else list(CROWDS))
    print(f"\ntook {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
