"""What a private run promises, and what its data may spend. No heavy imports here."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cluster.config import StrictModel


class BudgetConfig(StrictModel):
    """What all private runs on the same data may spend together, as a promise to those whose data it is."""

    epsilon: float = Field(3.0, gt=0)
    delta: float = Field(1e-5, gt=0, lt=1)


class PrivacyConfig(StrictModel):
    """Differential privacy for each document, conversation or pair (DP-SGD, Abadi et al. 2016, arXiv 1607.00133)."""

    target_epsilon: float | None = Field(None, gt=0)
    """Of the whole run: the noise follows from it. Give this or noise_multiplier."""
    noise_multiplier: float | None = Field(None, gt=0)
    """Standard deviation of the noise, in units of what one example can change: epsilon follows from it."""
    delta: float = Field(1e-6, gt=0, lt=1)
    """Of the run; less than one in the number of examples."""
    max_gradient_norm: float = Field(0.1, gt=0)
    """Each example's gradient is cut to this length. train.max_gradient_norm is not used then."""
    accountant: Literal["prv", "rdp"] = "prv"
    """Opacus' accountants: numerical composition (Gopi et al. 2021, arXiv 2106.02848), or the looser bound by Renyi divergences
    (Mironov et al. 2019, arXiv 1908.10530)."""
    budget: BudgetConfig = BudgetConfig()
    noise_seed: int | None = None
    """For tests alone: noise that can be drawn again protects nobody, and the manifest says so."""

    @model_validator(mode="after")
    def _one_of_both(self) -> PrivacyConfig:
        if (self.target_epsilon is None) == (self.noise_multiplier is None):
            raise ValueError("give target_epsilon or noise_multiplier, and not both: one follows from the other")
        return self
