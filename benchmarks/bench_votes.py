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
from collections.abc import Callable, Iterator
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
Bools = NDArray[np.bool_]
CONFIG = RolloutConfig(feedback=True)
LEVEL = level_of(CONFIG, Finding(metric="feedback"))
VOTED = 0.02
"""Share of requests that are voted on."""
GOOD, BAD = 0.10, 0.25
"""Shares of thumbs down."""
DAY = tuple((weight, 7200.0) for weight, _ in SCHEDULE)
"""Two hours a step."""
NUM_USERS, CHUNK, LOOK_S = 50_000, 500, 120.0
CROWDS = {
    "even": "all alike",
    "often": "a twentieth casts half of the votes and is hard to please",
    "few": "ten users cast a third of the votes and dislike everything",
    "keys": "twenty keys, each with a share of its own",
}
WAYS = ("serinus: a user counts once", "a user counts once on each side", "every vote counts")
THRESHOLD = "a threshold (50 votes, +10 points, 3 minutes)"


@dataclass
class Crowd:
    """Users of each rollout: their places, and of what share of the answers they dislike. Zeal is alike in all rollouts."""

    place: Array
    dislike: Array
    zeal: Array
    """Adds up to 1."""

    @staticmethod
    def draw(generator: np.random.Generator, num: int, kind: str) -> Crowd:
        size = 20 if kind == "keys" else NUM_USERS
        dislike, zeal = np.full((num, size), GOOD), np.ones(size)
        match kind:
            case "often":  # 17.5 % and 2.5 %: 10 % of all votes
                many = size // 20
                zeal[:many], dislike[:] = size / many - 1, GOOD / 4
                dislike[:, :many] = 1.75 * GOOD
            case "few":
                zeal[:10], dislike[:, :10] = (size - 10) / 20, 1.0
            case "keys":
                dislike = generator.beta(1, 9, (num, size))
        return Crowd(generator.random((num, size)), dislike, zeal / zeal.sum())


def ballots(
    crowd: Crowd, generator: np.random.Generator, num_votes: Array, weight: float, worse: float
) -> Iterator[Array]:
    """The votes of one look, of all rollouts: rollout, user, whether on the canary, whether thumbs down."""
    rollout = np.repeat(np.arange(len(num_votes)), num_votes)
    user = np.searchsorted(np.cumsum(crowd.zeal), generator.random(len(rollout))).clip(max=len(crowd.zeal) - 1)
    canary = crowd.place[rollout, user] < weight
    share = crowd.dislike[rollout, user]
    share = np.where(canary, share + (1 - share) * (worse - GOOD) / (1 - GOOD), share)
    yield from (rollout, user, canary, generator.random(len(rollout)) < share)


def fresh(known: Bools, rollout: Array, user: Array) -> Bools:
    """Which votes are their user's first, by `known` (rollouts x users, changed) and within the look."""
    first = np.zeros(len(rollout), bool)
    first[np.unique(rollout * known.shape[1] + user, return_index=True)[1]] = True
    first &= ~known[rollout, user]
    known[rollout, user] = True
    return first


@dataclass(frozen=True)
class Scenario:
    crowd: str
    worse: float
    """The canary's share of thumbs down where stable's is GOOD."""
    schedule: tuple[tuple[float, float], ...]


def simulate(trace: Trace, generator: np.random.Generator, num: int, given: Scenario) -> dict[str, Outcome]:
    """Needed are votes on the canary that count; harmed, thumbs down it got in all."""
    crowd = Crowd.draw(generator, num, given.crowd)
    anywhere, there, here = (np.zeros(crowd.place.shape, bool) for _ in range(3))
    tests = {way: votes.start(CONFIG, num) for way in WAYS}
    stopped, harmed = ({way: np.full(num, np.inf) for way in (*WAYS, THRESHOLD)} for _ in range(2))
    down_all, watch = np.zeros(num), Threshold(num)
    for _, weight, first, last in looks(trace, generator, num, LOOK_S, given.schedule):
        drawn = generator.binomial(last - first, VOTED)
        rollout, user, canary, down = ballots(crowd, generator, drawn, weight, given.worse)
        once = fresh(anywhere, rollout, user)
        each_side = np.where(canary, False, True)
        each_side[canary] = fresh(here, rollout[canary], user[canary])
        each_side[~canary] = fresh(there, rollout[~canary], user[~canary])
        down_all += np.bincount(rollout[canary & down], minlength=num)
        for way, chosen in zip(WAYS, (once, each_side, np.ones(len(rollout), bool)), strict=True):
            sides = [_count(rollout, chosen & side, down, num) for side in (~canary, canary)]
            tests[way] = test = tests[way].take(*sides)
            seen = test.rates.closed.num_canary
            fails = (test.log_harm >= -math.log(LEVEL)) & (seen >= MIN_CANARY_VOTES)
            _stop(fails, seen, down_all, stopped[way], harmed[way])
        watch.see(*(_count(rollout, side, down, num) for side in (~canary, canary)))
        _stop(watch.fails, watch.seen, down_all, stopped[THRESHOLD], harmed[THRESHOLD])
    fixed = np.full(num, fixed_binomial(GOOD + CONFIG.margin("feedback"), BAD, LEVEL))
    return {
        way: Outcome(stopped[way], np.where(np.isinf(harmed[way]), down_all, harmed[way]), fixed) for way in stopped
    }


def _count(rollout: Array, chosen: Bools, down: Bools, num: int) -> tuple[Array, Array]:
    return (
        np.bincount(rollout[chosen], minlength=num).astype(float),
        np.bincount(rollout[chosen & down], minlength=num).astype(float),
    )


def _stop(fails: Bools, seen: Array, down: Array, stopped: Array, harmed: Array) -> None:
    new = fails & np.isinf(stopped)
    stopped[new], harmed[new] = seen[new], down[new]


class Threshold:
    """Every minute: are thumbs down, over all votes of the rollout, up by ten points? Three minutes in a row."""

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
        seed = 1000 * given.seed + 2 * list(CROWDS).index(crowd) + (worse > GOOD)
        return run(traces, given.rollouts, seed, Scenario(crowd, worse, schedule))

    report(many, [given.crowd] if given.crowd else list(CROWDS))
    print(f"\ntook {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
