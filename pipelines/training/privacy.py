"""What a private run spends: the accounting of DP-SGD (Abadi et al. 2016, arXiv 1607.00133) by Opacus' accountants.

The mechanism of a step is the subsampled Gaussian: each example is in it with the chance `sample_rate`, independently of
the others (Poisson sampling); what it adds to the step's sum is at most `sensitivity` long; the sum gets Gaussian noise of
`noise_multiplier` x `sensitivity`. Neighbours are data sets of which one has one example more.
"""

from __future__ import annotations

from typing import Any

from cluster.config import StrictModel
from cluster.errors import ConfigError
from pipelines.config import PrivacyConfig

NUM_MARKS = 16
"""Steps whose epsilon is computed; at each of the others it is at most that of the next one. The PRV accountant takes up to
a second for one."""

LOSS_SHARE = 0.25
"""What an example's loss adds to a step's sum, beside its gradient, over the gradient's length at most. It costs 3 % more
noise: sqrt(1 + LOSS_SHARE**2)."""

LOSS_CEILING = 8.0
"""Nats a target: an example's larger loss counts as this one. The range must not depend on the data."""


class Terms(StrictModel):
    """The mechanism of a run, and what it spends."""

    noise_multiplier: float
    sample_rate: float
    num_steps: int
    delta: float
    max_gradient_norm: float
    marks: tuple[tuple[int, float], ...]
    """(steps, epsilon spent by so many), the last one of the whole run."""

    @property
    def epsilon(self) -> float:
        return self.marks[-1][1]

    @property
    def sensitivity(self) -> float:
        """Euclidean length, at most, of what one example adds to a step's sum: its gradient and its loss."""
        return self.max_gradient_norm * float((1 + LOSS_SHARE**2) ** 0.5)

    def epsilon_after(self, num_steps: int) -> float:
        """At most so much is spent by the first `num_steps` (from 1)."""
        return next(epsilon for steps, epsilon in self.marks if steps >= num_steps)


def make_terms(config: PrivacyConfig, num_examples: int, expected: int, num_steps: int) -> Terms:
    """The mechanism that keeps what the recipe asks.

    Args:
        expected: examples of a step on average.

    Raises:
        ConfigError: too few examples for that many in a step or for that delta, or no noise is enough.
    """
    if expected >= num_examples:
        raise ConfigError(
            "train.privacy",
            f"a step takes {expected} of {num_examples} examples on average",
            "lower train.sequences_per_step (or num_workers, sequences_per_worker, gradient_accumulation), or give more data",
        )
    if config.delta * num_examples >= 1:
        raise ConfigError(
            "train.privacy.delta",
            f"{config.delta:g}, with {num_examples} examples: that would let one of them be published",
            f"set it to less than {1 / num_examples:.1g}",
        )
    rate = expected / num_examples
    noise = config.noise_multiplier or _noise_for(config, rate, num_steps)
    steps = sorted({-(-num_steps * mark // NUM_MARKS) for mark in range(1, NUM_MARKS + 1)})
    return Terms(
        noise_multiplier=noise,
        sample_rate=rate,
        num_steps=num_steps,
        delta=config.delta,
        max_gradient_norm=config.max_gradient_norm,
        marks=tuple((n, _spent(config, noise, rate, n)) for n in steps),
    )


def _spent(config: PrivacyConfig, noise: float, rate: float, num_steps: int) -> float:
    try:
        return epsilon_of(noise, rate, num_steps, config.delta, config.accountant)
    except (ValueError, RuntimeError, ArithmeticError, MemoryError) as error:
        raise ConfigError(
            "train.privacy",
            f"the accountant {config.accountant} cannot tell what noise multiplier {noise:g} spends at delta {config.delta:g}"
            f" ({error})",
            "take `accountant: rdp`, more noise, or a larger delta",
        ) from None


def _noise_for(config: PrivacyConfig, rate: float, num_steps: int) -> float:
    from opacus.accountants.utils import get_noise_multiplier

    assert config.target_epsilon is not None
    try:
        return float(
            get_noise_multiplier(
                target_epsilon=config.target_epsilon,
                target_delta=config.delta,
                sample_rate=rate,
                steps=num_steps,
                accountant=config.accountant,
            )
        )
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            "train.privacy.target_epsilon",
            f"{config.target_epsilon:g} is out of reach ({error})",
            "raise it, lower train.num_steps, or give more data",
        ) from None


def epsilon_of(noise_multiplier: float, sample_rate: float, num_steps: int, delta: float, accountant: str) -> float:
    """Spent by so many steps, an upper bound. By PRV it is within 0.01 of the truth."""
    made = _accountant(accountant)
    made.history = [(noise_multiplier, sample_rate, num_steps)]
    return float(made.get_epsilon(delta))


def _accountant(name: str) -> Any:
    from opacus.accountants import create_accountant

    return create_accountant(mechanism=name)
