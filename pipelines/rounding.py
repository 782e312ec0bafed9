"""Weights and activations as a scheme stores them, rounded to the nearest.

Bit for bit what compressed-tensors makes of float32 tensors, on whatever device: the scale is that of the largest absolute value,
for which there is half of the range (Jacob et al. 2018, arXiv 1712.05877, section 2.1, with a zero point of 0).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.schemes import SchemeConfig

if TYPE_CHECKING:
    from torch import Tensor

FP8_MAX = 448.0
"""Largest number of E4M3."""


def stored_weights(weight: Tensor, scheme: SchemeConfig) -> Tensor:
    """The weights (outputs x inputs, float32) as the scheme stores them, times their scales."""
    if scheme.groups_of:
        return _whole(weight.unflatten(-1, (-1, scheme.groups_of)), 4).flatten(-2)
    return _float8(weight) if scheme.scheme == "FP8" else _whole(weight, 8)


def stored_activations(inputs: Tensor, scheme: SchemeConfig) -> Tensor:
    """The inputs (tokens x inputs, float32; more dimensions before are fine) as the scheme sees them, each token by itself."""
    if not scheme.rounds_activations:
        return inputs
    return _float8(inputs) if scheme.scheme == "FP8" else _whole(inputs, 8)


def _whole(values: Tensor, bits: int) -> Tensor:
    """Symmetric integers, one scale for each row."""
    scale = _scale(values, (2**bits - 1) / 2)
    return (values / scale).clamp_(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).round_().mul_(scale)


def _float8(values: Tensor) -> Tensor:
    import torch

    scale = _scale(values, FP8_MAX)
    return (values / scale).clamp_(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn).float().mul_(scale)


def _scale(values: Tensor, half_range: float) -> Tensor:
    """Of each row."""
    import torch

    least, most = torch.aminmax(values, dim=-1, keepdim=True)
    largest = torch.maximum(-least, most)
    # By a tensor: on GPUs torch multiplies by the inverse of a plain number, which may come out as the next number.
    scale = largest / torch.full_like(largest, half_range)
    return torch.where(scale == 0, torch.finfo(scale.dtype).eps, scale)
