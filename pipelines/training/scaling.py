"""A scaling law of a few runs: what a larger one will come to, with an interval. Pure.

The law is that of Hoffmann et al. 2022 (arXiv 2203.15556, equation 2): the loss of a model of N parameters after D tokens is
L(N, D) = E + A / N^alpha + B / D^beta. They fit its five numbers to hundreds of runs by least squares (section 3.3). Two or three
sizes do not identify them, and the one best fit would be taken for more than it is: even with 240 runs the intervals published
were too narrow (Besiroglu et al. 2024, arXiv 2404.10102). So all laws that go with the runs are kept, each with the weight that
Bayes' rule gives it, and a prediction is what they say together; that is how Lee et al. 2025 (arXiv 2505.23032) put extrapolation.

Given alpha, beta and the noise, the law is linear in E, A and B, so their posterior is a normal distribution in closed form. What
is left is a grid over three numbers. (The same split makes the least-squares fit a two-dimensional one: arXiv 2603.22339.)

Priors, all wide, stand where the runs say nothing:

- alpha, beta: log-normal around 0.35, two thirds in 0.21 to 0.58. Published: 0.34 and 0.28 (Hoffmann), 0.35 and 0.37 (Besiroglu).
- E: 2 nats a token, and what size and data still cost at the smallest run: 1 nat each; standard deviation 1.5, none below 0.
- noise of a run's loss, with what the law itself misses: 0.1 to 3 %, each order of magnitude alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, logsumexp, ndtri_exp

Array = NDArray[np.floating[Any]]

EXPONENT, SPREAD = 0.35, 0.5
"""Median of the exponents' prior, and the standard deviation of their logarithm."""
EXPONENTS = np.geomspace(0.05, 1.5, 36)
NOISE = np.geomspace(0.001, 0.03, 10)
"""Standard deviation of a loss, as a share of it."""
MEANS, DEVIATIONS = np.array([2.0, 1.0, 1.0]), np.array([1.5, 1.5, 1.5])
"""Of E and of what size and data cost at the smallest run, in nats a token."""
NUM_DRAWS, NUM_TRIES = 8_000, 4


class Point(NamedTuple):
    """What one run came to, its learning rate at the end of its schedule: a loss on the way there is not comparable."""

    num_parameters: int
    num_tokens: int
    loss: float
    """Nats a token."""


class Interval(NamedTuple):
    """A loss, and where it will lie with the confidence asked for."""

    loss: float
    low: float
    high: float


class Law(NamedTuple):
    """Draws from the laws that go with the runs, each field an array of NUM_DRAWS."""

    e: Array
    a: Array
    """What the model's size costs at `num_parameters`, in nats."""
    b: Array
    """What the data's size costs at `num_tokens`, in nats."""
    alpha: Array
    beta: Array
    noise: Array
    num_parameters: float
    num_tokens: float

    def losses(self, num_parameters: float, num_tokens: float) -> Array:
        """By each of the laws, without noise."""
        size, data = num_parameters / self.num_parameters, num_tokens / self.num_tokens
        return np.asarray(self.e + self.a * size**-self.alpha + self.b * data**-self.beta)

    def predict(self, num_parameters: float, num_tokens: float, confidence: float) -> Interval:
        """The median, and the interval in the middle: of the loss that will be measured, its noise included."""
        losses = self.losses(num_parameters, num_tokens)
        losses = losses * (1 + self.noise * np.random.default_rng(1).standard_normal(len(losses)))
        low, middle, high = np.quantile(losses, [(1 - confidence) / 2, 0.5, (1 + confidence) / 2])
        return Interval(float(middle), float(low), float(high))

    @property
    def coefficients(self) -> dict[str, Array]:
        """In the units of the law's equation."""
        large_a = self.a * self.num_parameters**self.alpha
        large_b = self.b * self.num_tokens**self.beta
        return {"E": self.e, "A": large_a, "alpha": self.alpha, "B": large_b, "beta": self.beta}


def fit(points: Sequence[Point]) -> Law:
    """The laws that go with these runs. The same runs give the same draws.

    Args:
        points: one or more. The fewer sizes among them, the more of what is said rests on the priors.
    """
    sizes, tokens, losses = (np.array(values, dtype=float) for values in zip(*points, strict=True))
    smallest, fewest = float(sizes.min()), float(tokens.min())
    alpha, beta, noise = (axis.ravel() for axis in np.meshgrid(EXPONENTS, EXPONENTS, NOISE, indexing="ij"))
    design = np.stack(
        [
            np.ones((len(alpha), len(losses))),
            (sizes / smallest) ** -alpha[:, None],
            (tokens / fewest) ** -beta[:, None],
        ],
        axis=-1,
    )
    means, covariances, evidence = _posterior(design, losses, noise)
    evidence += _log_prior(alpha) + _log_prior(beta)
    chosen, values = _draw(evidence, means, covariances)
    e, a, b = values.T
    return Law(e, a, b, alpha[chosen], beta[chosen], noise[chosen], smallest, fewest)


def fit_error(law: Law, points: Sequence[Point]) -> float:
    """Root mean square of how far the runs lie from what the laws say of them together, as a share of their loss."""
    shares = [float(law.losses(p.num_parameters, p.num_tokens).mean()) / p.loss - 1 for p in points]
    return float(np.sqrt(np.mean(np.square(shares))))


def _log_prior(exponent: Array) -> Array:
    return np.asarray(-0.5 * (np.log(exponent / EXPONENT) / SPREAD) ** 2)


def _posterior(design: Array, losses: Array, noise: Array) -> tuple[Array, Array, Array]:
    """Of (E, a, b) at each place of the grid: mean, covariance, and the logarithm of how well the losses go with that place.

    Bayesian linear regression with known noise (Bishop 2006, equations 3.50, 3.51 and 3.86).

    Args:
        design: places x runs x 3.
    """
    deviations = noise[:, None] * losses
    weighted = design / deviations[..., None]
    rest = (losses - design @ MEANS) / deviations  # of what the priors' means say
    precision = np.diag(DEVIATIONS**-2.0) + weighted.transpose(0, 2, 1) @ weighted
    covariance = np.linalg.inv(precision)
    pull = (weighted * rest[..., None]).sum(1)
    shift = (covariance @ pull[..., None])[..., 0]
    distance = (rest**2).sum(-1) - (pull * shift).sum(-1)
    evidence = -0.5 * (distance + np.linalg.slogdet(precision)[1]) - np.log(deviations).sum(-1)
    return MEANS + shift, covariance, evidence


def _draw(evidence: Array, means: Array, covariances: Array) -> tuple[NDArray[np.int64], Array]:
    """Places of the grid, and (E, a, b) there, none below 0.

    A place counts by its evidence times the chance that a draw there is nowhere below 0. That chance is first estimated from a few
    draws and then, of the places chosen by it, put right by weights. Runs that go against the law (the larger model is the
    worse one) make it tiny everywhere, so that throwing draws away would never end.
    """
    rng = np.random.default_rng(0)
    roots = np.linalg.cholesky(covariances)
    tries = np.repeat(np.arange(len(evidence)), NUM_TRIES)
    chances = logsumexp(_cut(means[tries], roots[tries], rng)[1].reshape(-1, NUM_TRIES), axis=1) - np.log(NUM_TRIES)
    places = _resampled(evidence + chances, rng)
    values, found = _cut(means[places], roots[places], rng)
    kept = _resampled(found - chances[places], rng)
    return places[kept], values[kept]


def _resampled(log_weights: Array, rng: np.random.Generator) -> NDArray[np.int64]:
    return rng.choice(len(log_weights), NUM_DRAWS, p=np.exp(log_weights - logsumexp(log_weights)))


def _cut(means: Array, roots: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draws from normal distributions that are cut off below 0, and the logarithms of their weights (the simulator of Geweke,
    Hajivassiliou and Keane; Hajivassiliou, McFadden and Ruud 1996, Journal of Econometrics 72).

    Args:
        roots: Cholesky factors of the covariances.
    """
    steps, log_weights = np.zeros_like(means), np.zeros(len(means))
    for side in range(means.shape[1]):
        so_far = means[:, side] + (roots[:, side, :side] * steps[:, :side]).sum(1)
        log_chance = log_ndtr(so_far / roots[:, side, side])
        log_weights += log_chance
        steps[:, side] = -ndtri_exp(log_chance + np.log1p(-rng.random(len(means))))
    return np.maximum(means + (roots @ steps[..., None])[..., 0], 0.0), log_weights
