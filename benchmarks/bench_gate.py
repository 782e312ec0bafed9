"""Claim: the gate never calls a planted 3-point drop on 500 items a pass and hardly ever fails a model against itself.

Each rule judges the same simulated answers, `--runs` of each scenario:

- serinus: the default must on a score (margin 1 point, effect 2, alpha 1 %, beta 5 %);
- recovery: new / old at least 98 % on the figures as they are, as quantization toolkits report it;
- overlap: pass where the two scores' own 95 % intervals overlap, unpaired, as evaluation harnesses print them;
- t-test: the paired one-sided t-test against a loss of 2 points at 5 % (normal quantile), which fails what it does not pass.

The second table is the level of the tests at their limit: how often a model worse by exactly the effect passes (nominal 5 %),
and how often one worse by exactly the margin fails (nominal 1 %).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from functools import cache
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from pipelines.config import GateConfig, RequirementConfig
from pipelines.evaluation.gate import Pair, judge
from pipelines.evaluation.paired.binary import Binary
from pipelines.evaluation.paired.bounded import Bounded
from pipelines.evaluation.paired.likelihood import Likelihood
from pipelines.evaluation.paired.sample import Sample

Answers = NDArray[np.bool_]
Rule = Callable[[Answers, Answers], str]
NAME = "quantized vs base"
CONFIG = GateConfig(requirements=(RequirementConfig(compare=NAME),))


def serinus(old: Answers, new: Answers) -> str:
    return _outcome(len(old), int((old & ~new).sum()), int((new & ~old).sum()))


@cache
def _outcome(n: int, lost: int, gained: int) -> str:
    [check] = judge(CONFIG, {NAME: (Pair("t", "accuracy", 0.0, 0.0, "", Binary(n, lost, gained)),)})
    return check.outcome


def recovery(old: Answers, new: Answers) -> str:
    return "passed" if new.mean() >= 0.98 * old.mean() else "failed"


def overlap(old: Answers, new: Answers) -> str:
    half = sum(1.96 * math.sqrt(x.mean() * (1 - x.mean()) / len(x)) for x in (old, new))
    return "passed" if new.mean() >= old.mean() - half else "failed"


def t_test(old: Answers, new: Answers) -> str:
    harm = old.astype(float) - new
    error = harm.std(ddof=1) / math.sqrt(len(harm))
    return "passed" if harm.mean() + 1.645 * error < 0.02 else "failed"


RULES: dict[str, Rule] = {"serinus": serinus, "recovery": recovery, "overlap": overlap, "t-test": t_test}


def answers(drawer: np.random.Generator, n: int, lost: float, gained: float) -> tuple[Answers, Answers]:
    """75 % right before; a share `lost` of all items turns wrong, `gained` turns right."""
    old, luck = drawer.random(n) < 0.75, drawer.random(n)
    return old, np.where(old, luck >= lost / 0.75, luck < gained / 0.25)


def planted(drawer: np.random.Generator, n: int, net: int, either_way: int) -> tuple[Answers, Answers]:
    """Exactly `net` items more lost than gained."""
    old = np.arange(n) < 0.75 * n
    new = old.copy()
    new[drawer.choice(np.flatnonzero(old), net + either_way, replace=False)] = False
    new[drawer.choice(np.flatnonzero(~old), either_way, replace=False)] = True
    return old, new


SCENARIOS: dict[str, Callable[[np.random.Generator], tuple[Answers, Answers]]] = {
    "exactly 15 of 500 lost (3 points)": lambda d: planted(d, 500, 15, int(d.integers(0, 60))),
    "3 points worse, 500 items, 9 % differ": lambda d: answers(d, 500, 0.06, 0.03),
    "2 points worse, 500 items, 8 % differ": lambda d: answers(d, 500, 0.05, 0.03),
    "as good, 500 items, 6 % differ": lambda d: answers(d, 500, 0.03, 0.03),
    "as good, 500 items, 2 % differ": lambda d: answers(d, 500, 0.01, 0.01),
    "as good, 100 items, 6 % differ": lambda d: answers(d, 100, 0.03, 0.03),
}


def verdicts(runs: int) -> Iterator[str]:
    yield "| scenario | rule | passed | inconclusive | failed |\n|---|---|---|---|---|"
    for title, draw in SCENARIOS.items():
        drawer = np.random.default_rng(1)
        drawn = [draw(drawer) for _ in range(runs)]
        for name, rule in RULES.items():
            found = [rule(*pair) for pair in drawn]
            shares = (f"{found.count(outcome) / runs:.1%}" for outcome in ("passed", "inconclusive", "failed"))
            yield f"| {title} | {name} | {' | '.join(shares)} |"


def binary(drawer: np.random.Generator, n: int, harm: float) -> Sample:
    lost, gained, _ = drawer.multinomial(n, [0.03 + harm, 0.03, 0.94 - harm])
    return Binary(n, int(lost), int(gained))


def bounded(drawer: np.random.Generator, n: int, harm: float) -> Sample:
    """Mostly nothing, now and then an answer that is lost altogether."""
    return Bounded(np.where(drawer.random(n) < harm, 1.0, drawer.normal(0, 0.05, n).clip(-1, 1)))


def likelihood(skew: float) -> Callable[[np.random.Generator, int, float], Sample]:
    def draw(drawer: np.random.Generator, n: int, harm: float) -> Sample:
        tokens = drawer.integers(150, 300, n).astype(float)
        noise = drawer.lognormal(0, skew, n) - math.exp(skew**2 / 2) if skew else drawer.normal(0, 1, n)
        return Likelihood(math.log1p(harm) * tokens + 4 * noise, tokens)

    return draw


KINDS = {
    "right or wrong": binary,
    "bounded, rare total losses": bounded,
    "log-likelihood, normal": likelihood(0),
    "log-likelihood, skewness 1.75": likelihood(0.5),
    "log-likelihood, skewness 6.2": likelihood(1.0),
}


def levels(runs: int) -> Iterator[str]:
    yield "| items' figures | items | worse by the effect (5 points or %): passed | worse by the margin (same): failed |"
    yield "|---|---|---|---|"
    for title, draw in KINDS.items():
        for n in (24, 100, 500):
            drawer = np.random.default_rng(2)
            samples = [draw(drawer, n, 0.05) for _ in range(runs)]
            passed = sum(sample.p_at_least(0.05) <= 0.05 for sample in samples) / runs
            failed = sum(sample.p_at_most(0.05) <= 0.01 for sample in samples) / runs
            yield f"| {title} | {n} | {passed:.1%} | {failed:.1%} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    runs = parser.parse_args().runs
    for line in chain(verdicts(runs), [""], levels(runs)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
