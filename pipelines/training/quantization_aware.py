"""Quantization-aware training: linear layers compute with weights (and where the scheme says so activations) rounded as they will
be stored, and their gradients pass through the rounding as if it were not there (the straight-through estimator: Bengio et al.
2013, arXiv 1308.3432; Jacob et al. 2018, arXiv 1712.05877, section 3).

What is trained and kept are the weights before they are rounded, under their own names. So ZeRO, checkpoints and export know
nothing of it, and the model made is one like any other, which the quantize stage rounds to what it was trained with.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from cluster.errors import ConfigError
from pipelines.config import QuantizationAwareConfig
from pipelines.rounding import stored_activations, stored_weights
from pipelines.schemes import is_ignored
from pipelines.training.shape import check_dense, check_groups, num_experts


def round_forward(model: Any, asked: QuantizationAwareConfig, *, narrow: bool) -> tuple[str, ...]:
    """Let the model's linear layers compute rounded from now on, in place.

    Args:
        narrow: the model made is exported in bfloat16: what is rounded are weights that have been rounded to that before.

    Returns:
        Names of these layers.

    Raises:
        ConfigError: there are none, they do not fall into groups, or there are experts.
    """
    check_dense(num_experts(model.config.to_dict()))
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and not is_ignored(name, asked.ignore)
    }
    if not layers:
        found = f"the model has no linear layers besides {', '.join(asked.ignore)}"
        raise ConfigError(
            "train.quantization_aware.ignore", found, "name fewer of them, or leave train.quantization_aware out"
        )
    check_groups([layer.in_features for layer in layers.values()], asked)
    for layer in layers.values():
        # The module stays, and its hooks with it, by which ZeRO gathers its weights.
        layer.forward = partial(_forward, layer, asked, narrow)
    return tuple(layers)


def _forward(layer: Any, asked: QuantizationAwareConfig, narrow: bool, inputs: torch.Tensor) -> Any:
    return RoundedLinear.apply(inputs, layer.weight, layer.bias, asked, narrow)


class RoundedLinear(torch.autograd.Function):
    """y = x W' + b of rounded x and W, whose gradients are those at the rounded values, handed on to the others.

    It keeps x and W themselves and rounds them again when it goes back: rounded copies of all layers would be as large as the
    model, which at ZeRO stage 3 no rank has room for.
    """

    @staticmethod
    def forward(  # noqa: PLR0917  # torch hands them on by position
        ctx: Any,
        inputs: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        asked: QuantizationAwareConfig,
        narrow: bool,
    ) -> torch.Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.asked, ctx.narrow = asked, narrow
        return linear(rounded_inputs(inputs, asked), rounded_weight(weight, asked, narrow), bias)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        of_inputs = of_weight = of_bias = None
        rows = gradient.flatten(0, -2)
        if ctx.needs_input_grad[0]:
            of_inputs = gradient @ rounded_weight(weight, ctx.asked, ctx.narrow)
        if ctx.needs_input_grad[1]:
            of_weight = rows.T @ rounded_inputs(inputs, ctx.asked).flatten(0, -2)
        if ctx.needs_input_grad[2]:
            of_bias = rows.sum(0)
        return of_inputs, of_weight, of_bias, None, None


def rounded_weight(weight: torch.Tensor, asked: QuantizationAwareConfig, narrow: bool) -> torch.Tensor:
    """The weight (outputs x inputs) as it will be stored, in its own dtype.

    Args:
        narrow: after it has been rounded to bfloat16.
    """
    exported = weight.detach().to(torch.bfloat16) if narrow else weight.detach()
    return stored_weights(exported.float(), asked).to(weight.dtype)


def rounded_inputs(inputs: torch.Tensor, asked: QuantizationAwareConfig) -> torch.Tensor:
    """The activations (..., tokens, inputs) as the scheme sees them, in their own dtype."""
    if not asked.rounds_activations:
        return inputs
    return stored_activations(inputs.detach().float(), asked).to(inputs.dtype)
