"""Who is in a step, and the noise: the right rates and deviations, the same when drawn again, kept secret."""

from __future__ import annotations

import numpy as np

from cluster.storage import LocalStorage
from pipelines.training.draws import gaussian, keep_secret, poisson, read_secret

SECRET = bytes(range(32))


def test_each_example_is_in_a_step_with_the_same_chance_whatever_becomes_of_the_others() -> None:
    num, rate, steps = 2_000, 0.05, 2_000
    drawn = np.zeros((steps, num), dtype=bool)
    for step in range(steps):
        drawn[step, poisson(SECRET, step, num, rate)] = True
    sizes = drawn.sum(axis=1)
    # Binomial: not a fixed size, and not one example more often than another. Five standard errors each.
    assert abs(sizes.mean() - num * rate) < 5 * (num * rate * (1 - rate) / steps) ** 0.5
    assert abs(sizes.var() / (num * rate * (1 - rate)) - 1) < 5 * (2 / steps) ** 0.5
    assert abs(drawn.mean(axis=0).var() / (rate * (1 - rate) / steps) - 1) < 5 * (2 / num) ** 0.5
    together = (drawn[:, 0::2] & drawn[:, 1::2]).mean()
    assert abs(together - rate**2) < 5 * rate / (steps * num / 2) ** 0.5


def test_noise_is_normal_and_another_for_each_step_and_parameter() -> None:
    draws = [gaussian(SECRET, step, name, 100_000) for step in (0, 1) for name in ("a", "b")]
    for values in draws:
        assert abs(values.mean()) < 5 / 100_000**0.5
        assert abs(values.var() - 1) < 5 * (2 / 100_000) ** 0.5
    correlations = np.corrcoef(draws)[np.triu_indices(4, 1)]
    assert (np.abs(correlations) < 5 / 100_000**0.5).all()


def test_a_step_that_is_done_again_is_the_same_step() -> None:
    assert np.array_equal(gaussian(SECRET, 3, "a", 50), gaussian(SECRET, 3, "a", 50))
    assert np.array_equal(poisson(SECRET, 3, 500, 0.1), poisson(SECRET, 3, 500, 0.1))
    assert not np.array_equal(gaussian(bytes(32), 3, "a", 50), gaussian(SECRET, 3, "a", 50))


def test_the_secret_is_drawn_once_a_run_and_another_for_each(storage: LocalStorage) -> None:
    names = [keep_secret(storage, run, None) for run in ("runs/train/a", "runs/train/a", "runs/train/b")]
    assert names[0] == names[1] != names[2]
    secret = read_secret(storage, "runs/train/a")
    assert len(secret) == 32
    assert secret.hex() not in names[0]
    assert keep_secret(storage, "runs/train/c", 7) == keep_secret(storage, "runs/train/d", 7)
