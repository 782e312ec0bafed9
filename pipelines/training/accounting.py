"""What the steps of a private run spend, by Opacus' two accountants, each kept from computing without end.

- `rdp`, by Renyi divergences (Mironov et al. 2019, arXiv 1908.10530): an upper bound, in milliseconds.
- `prv`, by numerical composition (Gopi et al. 2021, arXiv 2106.02848): an upper bound within 0.01 of the truth, on a grid whose
  points grow with epsilon and with the square root of the steps.

Opacus' own front ends for them (`get_epsilon` with its default orders, `get_noise_multiplier`) take very long on some inputs. A
fractional order is a series that is added up until its terms are small; below order 2 and at sample rates about a half
that takes seconds for one epsilon, and a search for the noise wants dozens. A grid may take all memory, above all
in a search that begins far below the noise it looks for. So the orders, the grid and the search are chosen here.
"""

from __future__ import annotations

import math
import warnings
from typing import Literal

Accountant = Literal["prv", "rdp"]

WHOLE_ORDERS = (*range(2, 64), 80, 96, 128, 192, 256, 512)
"""Each a sum of as many terms. The largest matter for epsilons below 0.3."""
FRACTIONAL_ORDERS = tuple(order / 10 for order in range(21, 110) if order % 10)
"""From 2 on, where the terms of their series fall at least as the fourth power of their number. Smaller ones would tell more where
epsilon is above 12."""
LEAST_NOISE_OF_SERIES = 0.1
"""Below it the terms of a fractional order are differences of numbers too large for float64."""

ERROR = 0.01
"""Of epsilon by `prv`; Opacus' default, and that delta may be off by a thousandth of itself."""
MAX_POINTS = 2**21
"""Of the grid: some two seconds and 200 MB."""
MAX_WIDTH = 500.0
"""Of the grid, in nats: beyond 709 exp overflows."""

LEAST_NOISE, MOST_NOISE = 0.05, 1e6
"""Between which noise is looked for."""
NUM_HALVINGS = 10


class Unaccountable(Exception):
    """The accountant cannot tell, or there is no such noise. Says why."""


def epsilon_of(
    noise_multiplier: float, sample_rate: float, num_steps: int, delta: float, accountant: Accountant
) -> float:
    """Spent by so many steps, an upper bound.

    Raises:
        Unaccountable: by that accountant it cannot be told.
    """
    by = _by_divergences if accountant == "rdp" else _by_composition
    try:
        found = by(noise_multiplier, sample_rate, num_steps, delta)
    except (ValueError, RuntimeError, ArithmeticError, MemoryError, UserWarning) as error:
        raise Unaccountable(str(error) or type(error).__name__) from None
    if not math.isfinite(found):
        raise Unaccountable(f"epsilon is {found}")
    return max(found, 0.0)


def noise_for(epsilon: float, sample_rate: float, num_steps: int, delta: float, accountant: Accountant) -> float:
    """A noise multiplier that spends `epsilon` at most, and hardly more noise than that takes.

    Raises:
        Unaccountable: no noise is enough, or by that accountant it cannot be told.
    """

    def is_enough(noise: float) -> bool:
        return epsilon_of(noise, sample_rate, num_steps, delta, accountant) <= epsilon

    low, high = LEAST_NOISE, 2 * LEAST_NOISE
    if accountant == "prv":  # a little below what the looser bound asks for: far below, the grid would be large
        high = noise_for(epsilon, sample_rate, num_steps, delta, "rdp")
        low = 0.75 * high
    if is_enough(low):
        return low
    while not is_enough(high):
        low, high = high, 2 * high
        if high > MOST_NOISE:
            raise Unaccountable(f"a noise multiplier of {low:.2g} is not enough")
    for _ in range(NUM_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def _by_divergences(noise: float, rate: float, num_steps: int, delta: float) -> float:
    if noise < LEAST_NOISE_OF_SERIES:
        return _converted(noise, rate, num_steps, delta, WHOLE_ORDERS)
    try:
        return _converted(noise, rate, num_steps, delta, (*FRACTIONAL_ORDERS, *WHOLE_ORDERS))
    except ValueError:  # rounding made a sum negative
        return _converted(noise, rate, num_steps, delta, WHOLE_ORDERS)


def _converted(noise: float, rate: float, num_steps: int, delta: float, orders: tuple[float, ...]) -> float:
    """The least of the epsilons that the divergences of these orders amount to; each of them is a bound."""
    from opacus.accountants import RDPAccountant

    made = RDPAccountant()
    made.history = [(noise, rate, num_steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that another order might have told more
        return float(made.get_epsilon(delta, alphas=list(orders)))


def _by_composition(noise: float, rate: float, num_steps: int, delta: float) -> float:
    from opacus.accountants.analysis import prv
    from scipy.integrate import IntegrationWarning

    width, mesh = _grid(noise, rate, num_steps, delta)
    domain = prv.Domain.create_aligned(-width, width, mesh)
    of_a_step = prv.TruncatedPrivacyRandomVariable(
        prv.PoissonSubsampledGaussianPRV(rate, noise), domain.t_min, domain.t_max
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", IntegrationWarning)  # of the mean, which the grid is moved to
        on_grid = prv.discretize(of_a_step, domain)
    return float(prv.compose_heterogeneous([on_grid], [num_steps]).compute_epsilon(delta, delta / 1000, ERROR)[2])


def _grid(noise: float, rate: float, num_steps: int, delta: float) -> tuple[float, float]:
    """Half its width and its mesh, as Opacus has them (Gopi et al. 2021, remark 5.6 and theorem 5.5), but for the orders.

    Raises:
        Unaccountable: it would be too large.
    """
    part = delta / 1000
    tails = (
        _converted(noise, rate, num_steps, part / 4, WHOLE_ORDERS),
        _converted(noise, rate, 1, part / (8 * num_steps), WHOLE_ORDERS),
    )
    width = max(*tails, ERROR) + 3
    mesh = ERROR / math.sqrt(num_steps * math.log(12 / part) / 2)
    if not width <= MAX_WIDTH:
        raise Unaccountable(f"losses of up to {width:.3g} nats, more than {MAX_WIDTH:g}")
    if 2 * width / mesh > MAX_POINTS:
        raise Unaccountable(f"a grid of {2 * width / mesh:,.0f} points, more than {MAX_POINTS:,}")
    return width, mesh
