"""The mechanism of a private run: DP-SGD (Abadi et al. 2016, arXiv 1607.00133) with the noise that its epsilon asks for.

The mechanism of a step is the subsampled Gaussian: each example is in it with the chance `sample_rate`, independently of
the others (Poisson sampling); what it adds to the step's sum is at most `sensitivity` long; the sum gets Gaussian noise of
`noise_multiplier` x `sensitivity`. Neighbours are data sets of which one has one example more.
"""

from __future__ import annotations

from cluster.config import StrictModel
from cluster.errors import ConfigError
from pipelines.config import PrivacyConfig
from pipelines.training.accounting import Accountant, Unaccountable, epsilon_of, noise_for

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
    accountant: Accountant
    """Whose epsilons these are."""
    not_prv_because: str = ""
    """Why it is not the accountant that was asked for; empty where it is."""

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
    """The mechanism that keeps what the recipe asks. Where `prv` cannot tell, `rdp` does, for all of the run.

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
    rate, why = expected / num_examples, ""
    if config.accountant == "prv":
        try:
            return _terms(config, rate, num_steps, "prv")
        except Unaccountable as error:
            why = str(error)
    try:
        return _terms(config, rate, num_steps, "rdp").replace(not_prv_because=why)
    except Unaccountable as error:
        raise _refusal(config, str(error)) from None


def _terms(config: PrivacyConfig, rate: float, num_steps: int, accountant: Accountant) -> Terms:
    noise = config.noise_multiplier
    if noise is None:
        assert config.target_epsilon is not None
        noise = noise_for(config.target_epsilon, rate, num_steps, config.delta, accountant)
    steps = sorted({-(-num_steps * mark // NUM_MARKS) for mark in range(1, NUM_MARKS + 1)})
    return Terms(
        noise_multiplier=noise,
        sample_rate=rate,
        num_steps=num_steps,
        delta=config.delta,
        max_gradient_norm=config.max_gradient_norm,
        marks=tuple((n, epsilon_of(noise, rate, n, config.delta, accountant)) for n in steps),
        accountant=accountant,
    )


def _refusal(config: PrivacyConfig, why: str) -> ConfigError:
    if config.target_epsilon is None:
        found = f"nobody can tell what {config.noise_multiplier:g} spends at delta {config.delta:g} ({why})"
        return ConfigError("train.privacy.noise_multiplier", found, "take more noise, or a larger delta")
    found = f"{config.target_epsilon:g} at delta {config.delta:g} is out of reach ({why})"
    return ConfigError("train.privacy.target_epsilon", found, "raise it, lower train.num_steps, or give more data")
