"""Epsilon of DP-SGD by Google's dp-accounting, the second library that ours is held against.

    python -m venv FOLDER && FOLDER/bin/pip install dp-accounting==0.6.0
    FOLDER/bin/python benchmarks/peer_dp_accounting.py NOISE,RATE,STEPS,DELTA ...

One JSON line for each: `pld`, by privacy loss distributions, and `rdp`, by Renyi divergences; for neighbours of which one has one
example more, and Poisson sampling. It has an environment of its own because its dependencies do not go with ours.
"""

from __future__ import annotations

import json
import sys


def epsilons(noise: float, rate: float, num_steps: int, delta: float) -> dict[str, float]:
    import dp_accounting
    from dp_accounting import pld, rdp

    step = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    run = dp_accounting.SelfComposedDpEvent(step, num_steps)
    neighbours = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    accountants = {
        "pld": pld.PLDAccountant(neighboring_relation=neighbours),
        "rdp": rdp.RdpAccountant(neighboring_relation=neighbours),
    }
    return {name: float(one.compose(run).get_epsilon(delta)) for name, one in accountants.items()}


def main() -> None:
    for given in sys.argv[1:]:
        noise, rate, num_steps, delta = given.split(",")
        print(json.dumps(epsilons(float(noise), float(rate), int(num_steps), float(delta))), flush=True)


if __name__ == "__main__":
    main()
