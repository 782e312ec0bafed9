"""The compiled inner loop of GPTQ against the same in plain numpy, one operation at a time in float32, to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipelines.quantization.gptq_kernel import Matrices, round_block


def plain(weights: Matrices, inverse: Matrices, scale: Matrices, least: Any, most: Any) -> list[Matrices]:
    """Frantar et al. 2023, algorithm 1, the loop over a block's columns: `rounded`, `errors`, `losses`."""
    left, rounded, errors = weights.copy(), np.zeros_like(weights), np.zeros_like(weights)
    for column in range(weights.shape[2]):
        step = scale[:, :, column]
        rounded[:, :, column] = np.rint(np.clip(left[:, :, column] / step, least, most)) * step
        errors[:, :, column] = (left[:, :, column] - rounded[:, :, column]) / inverse[:, column, column][:, None]
        left[:, :, column:] -= errors[:, :, column, None] * inverse[:, None, column, column:]
    return [rounded, errors, errors**2]


@pytest.mark.parametrize(("num_rows", "num_columns", "bits"), [(1, 1, 8), (5, 7, 8), (64, 128, 8), (33, 96, 4)])
def test_each_weight_is_rounded_as_in_plain_numpy(num_rows: int, num_columns: int, bits: int) -> None:
    draws = np.random.default_rng(num_rows)
    weights = draws.standard_normal((2, num_rows, num_columns), dtype=np.float32)
    inverse = np.triu(draws.standard_normal((2, num_columns, num_columns), dtype=np.float32))
    inverse += 3 * np.eye(num_columns, dtype=np.float32)
    scale = np.abs(weights).max(2, keepdims=True).repeat(num_columns, 2) / np.float32(2 ** (bits - 1))
    least, most = np.float32(-(2 ** (bits - 1))), np.float32(2 ** (bits - 1) - 1)  # so that some are cut off
    filled = (np.full_like(weights, np.nan), np.full_like(weights, np.nan), np.full_like(weights, np.nan))
    wanted = plain(weights, inverse, scale, least, most)
    round_block(weights.copy(), inverse, scale, (least, most), filled)
    for found, expected in zip(filled, wanted, strict=True):
        np.testing.assert_array_equal(found, expected)
    whole = wanted[0] / scale
    assert np.abs(whole - np.rint(whole)).max() < 1e-4
