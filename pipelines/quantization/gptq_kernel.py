"""GPTQ's inner loop on CPUs as one compiled kernel; llmcompressor's calls torch some twenty times for each column. Same weights.

Frantar et al. 2023 (arXiv 2210.17323), section 3.3: column by column, and a column's error is taken out of the columns after it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.compiled import kernel

Matrices = NDArray[np.float32]
"""Matrices x rows x columns of a block."""


@kernel
def round_block(
    weights: Matrices,
    inverse: Matrices,
    scale: Matrices,
    bounds: tuple[np.float32, np.float32],
    filled: tuple[Matrices, Matrices, Matrices],
) -> None:
    """Round the block's weights, and spoil `weights`.

    Args:
        inverse: matrices x columns x columns, the upper Cholesky factor of the inverse Hessian.
        scale: of each weight; a weight becomes a whole number of them within `bounds`.
        filled: gets the rounded weights, their errors over the diagonal, and the squares of these.
    """
    (least, most), (rounded, errors, losses) = bounds, filled
    num_matrices, num_rows, num_columns = weights.shape
    for matrix in range(num_matrices):
        for row in range(num_rows):
            left = weights[matrix, row]
            for column in range(num_columns):
                step = scale[matrix, row, column]
                value = np.rint(min(max(left[column] / step, least), most)) * step
                error = (left[column] - value) / inverse[matrix, column, column]
                rounded[matrix, row, column] = value
                errors[matrix, row, column] = error
                losses[matrix, row, column] = error * error
                for after in range(column, num_columns):
                    left[after] -= error * inverse[matrix, column, after]


def install() -> None:
    """Let llmcompressor take it for symmetric integers with float32 scales on CPUs. Once in a process."""
    from compressed_tensors.utils.impl_backend import ImplBackend

    ImplBackend.register("gptq_block_update", _fits, priority=0)(_update_block)


def _fits(weights: Any, *_: Any, quant_args: Any, scale: Any, **__: Any) -> bool:
    is_integer = quant_args.type == "int" and quant_args.symmetric
    are_float32 = weights.dtype.itemsize == 4 and scale.dtype.itemsize == 4
    return bool(weights.device.type == "cpu" and weights.dim() == 3 and is_integer and are_float32)


def _update_block(weights: Any, inverse: Any, rounded: Any, errors: Any, losses: Any, **how: Any) -> None:
    from compressed_tensors.quantization.utils import calculate_range
    from llmcompressor.modifiers.gptq.helpers import column_scale_window

    quant_args, first = how["quant_args"], how["i1"]
    num_rows, num_columns = weights.shape[1:]
    where = {"num_rows": num_rows, "i1": first, "i2": first + num_columns}
    scale, _ = column_scale_window(
        how["scale"], how["zero_point"], how["global_scale"], how["g_idx"], quant_args, **where
    )
    least, most = (np.float32(bound.item()) for bound in calculate_range(quant_args, weights.device))
    left, factor, steps = (tensor.contiguous().numpy() for tensor in (weights, inverse, scale))
    round_block(left, factor, steps, (least, most), (rounded.numpy(), errors.numpy(), losses.numpy()))
