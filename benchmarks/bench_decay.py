"""Who calls a promoted model decayed, and when: our watch, and two simpler ones, over the same simulated models and items.

    python benchmarks/bench_decay.py [--watches 2000] [--seed 1]

A golden set is drawn from all the questions it stands for; the model's answers to them change with the decay and then stay as
they are, as at temperature 0, so that every round sees the same answers in another order (but for a small share that batching tips
over anew each time). Ours is judged by the very class that decides, with all watches side by side in its arrays.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from services.config import DecayConfig
from services.rollout.decay import level, start

Array = NDArray[np.float64]
DEFAULT, STRICT = DecayConfig(), DecayConfig(max_accuracy_drop_points=1)
NUM_ROUNDS = 8
NOISE = 0.005
"""Share of the answers that come out otherwise in a round, by batching alone, half of them better."""
CHURN = 0.01
"""Share of the items that a changed model gets right and did not before; those it loses come on top of the drop."""
BLOCK = 10
"""Items between two looks here; the real watch looks at every one."""
CHUNK = 500


SCENARIOS: tuple[tuple[DecayConfig, float, tuple[int, ...]], ...] = (
    (DEFAULT, 0.0, (200, 2000)),
    (DEFAULT, 0.01, (200, 2000)),
    (DEFAULT, 0.03, (200, 2000)),
    (DEFAULT, 0.05, (1000, 2000, 4000)),
    (DEFAULT, 0.10, (200, 500)),
    (DEFAULT, 0.20, (50, 100, 200)),
    (STRICT, 0.01, (1000,)),
    (STRICT, 0.05, (500, 1000)),
)


@dataclass
class Found:
    """Over many watches: whether each judge ever called the model decayed, and after how many items ours did."""

    ours: NDArray[np.bool_]
    items: Array
    multiplied: NDArray[np.bool_]
    """One wealth over all rounds, as if an item asked again were another one."""
    plain: NDArray[np.bool_]
    """A round's mean is more than the margin below what was recorded."""


def simulate(generator: np.random.Generator, config: DecayConfig, num: int, num_items: int, drop: float) -> Found:
    churn = CHURN if drop else 0.0
    drawn = generator.random((num, num_items))
    changed = np.where(drawn < drop + churn, -1.0, np.where(drawn > 1 - churn, 1.0, 0.0))
    ours, multiplied, plain = (np.zeros(num, bool) for _ in range(3))
    items, forever = np.full(num, np.inf), start(config, num)
    for number in range(1, NUM_ROUNDS + 1):
        tipped = generator.random((num, num_items))
        noise = np.where(tipped < NOISE / 2, -1.0, np.where(tipped > 1 - NOISE / 2, 1.0, 0.0))
        seen = generator.permuted(np.clip(changed + noise, -1, 1), axis=1)
        test, threshold = start(config, num), math.log(1 / level(config, number))
        for first in range(0, num_items, BLOCK):
            block = seen[:, first : first + BLOCK]
            rollout = np.repeat(np.arange(num), block.shape[1])
            test, forever = test.take(rollout, block.ravel()), forever.take(rollout, block.ravel())
            here = (test.log_harm >= threshold) & ~ours
            ours, items = ours | here, np.where(here, (number - 1) * num_items + first + block.shape[1], items)
            multiplied |= forever.log_harm >= math.log(1 / config.alpha)
        plain |= seen.mean(axis=1) < -config.max_accuracy_drop_points / 100
    return Found(ours, items, multiplied, plain)


def many(seed: int, config: DecayConfig, num: int, num_items: int, drop: float) -> Found:
    parts = [simulate(np.random.default_rng((seed, part)), config, min(CHUNK, num - first), num_items, drop)
             for part, first in enumerate(range(0, num, CHUNK))]  # fmt: skip
    fields = ("ours", "items", "multiplied", "plain")
    return Found(*(np.concatenate([getattr(part, name) for part in parts]) for name in fields))


def share(hits: NDArray[np.bool_]) -> str:
    """With Clopper & Pearson's interval of 95 %."""
    k, n = int(hits.sum()), len(hits)
    low = stats.beta.ppf(0.025, k, n - k + 1) if k else 0.0
    high = stats.beta.ppf(0.975, k + 1, n - k) if k < n else 1.0
    return f"{k / n:.1%} [{low:.1%}, {high:.1%}]"


def fixed_sample(config: DecayConfig, drop: float) -> int:
    """Items of a test that looks once, told when and how the answers scatter."""
    quantiles, variance = stats.norm.isf(config.alpha) + stats.norm.ppf(0.95), drop + 2 * CHURN + NOISE - drop**2
    return math.ceil(quantiles**2 * variance / (drop - config.max_accuracy_drop_points / 100) ** 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--watches", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    chosen, began_s = parser.parse_args(), time.monotonic()
    print(f"{chosen.watches} watches a row, of {NUM_ROUNDS} rounds each; called decayed, with the interval of 95 %\n")
    head = ("margin", "drop", "items", "serinus", "median items", "one wealth over all rounds", "plain threshold")
    print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|")
    for config, drop, sizes in SCENARIOS:
        for num_items in sizes:
            found = many(chosen.seed + num_items + round(1e6 * drop), config, chosen.watches, num_items, drop)
            median = f"{np.median(found.items[found.ours]):.0f}" if found.ours.mean() > 0.05 else "-"
            points = f"{config.max_accuracy_drop_points:g}", f"{drop * 100:g}", str(num_items)
            judges = share(found.ours), median, share(found.multiplied), share(found.plain)
            print(f"| {' | '.join((*points, *judges))} |", flush=True)
    needed = fixed_sample(DEFAULT, 0.05)
    print(f"\na paired z-test of level {DEFAULT.alpha:g} and power 95 %, told the moment: {needed} items for 5 points")
    print(f"\n{time.monotonic() - began_s:.0f} s")


if __name__ == "__main__":
    main()
