"""Rounding to the nearest is that of compressed-tensors, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.config import QuantizeConfig
from pipelines.quantization.methods import target
from pipelines.rounding import stored_activations, stored_weights
from pipelines.schemes import SchemeConfig

torch = pytest.importorskip("torch")

SCHEMES = (
    {"scheme": "W4A16", "group_size": 32},
    {"scheme": "W4A16", "group_size": 128},
    {"scheme": "W8A8"},
    {"scheme": "FP8"},
)


def asked(fields: dict[str, Any]) -> SchemeConfig:
    return SchemeConfig.model_validate({**fields, "method": "rtn"})


def arguments(fields: dict[str, Any]) -> tuple[Any, Any]:
    """What the quantize stage asks of compressed-tensors: for weights and activations."""
    from compressed_tensors.quantization import QuantizationScheme, preset_name_to_scheme

    told = target(QuantizeConfig.model_validate({**fields, "method": "rtn"}))
    if "scheme" in told:
        found = preset_name_to_scheme(told["scheme"], ["Linear"])
    else:
        found = QuantizationScheme.model_validate(told["config_groups"]["group_0"])
    return found.weights, found.input_activations


def weights(dtype: Any, seed: int = 0) -> Any:
    """With rows of zeros, tiny and huge values, ties, and a group whose largest value is negative."""
    made = torch.randn(48, 256, generator=torch.Generator().manual_seed(seed)) * 0.03
    made[0] = 0
    made[1] *= 1e-30
    made[2] *= 1e30
    made[3] = torch.arange(256) / 2
    made[4, :128] = -made[4, :128].abs()
    made[5, 7] = 40
    return made.to(dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("fields", SCHEMES, ids=str)
def test_weights_are_those_of_compressed_tensors(fields: dict[str, Any], dtype: str) -> None:
    quantization = pytest.importorskip("compressed_tensors.quantization")
    from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize
    from compressed_tensors.quantization.utils import calculate_qparams

    told, _ = arguments(fields)
    for seed in range(4):
        values = weights(getattr(torch, dtype), seed).float()
        groups = values.unflatten(-1, (-1, told.group_size or values.shape[-1]))
        scale, zero = calculate_qparams(groups.amin(-1), groups.amax(-1), told)
        assert quantization.QuantizationStrategy(told.strategy) in ("group", "channel")
        stored = quantize(values, scale, zero, told, dtype=told.pytorch_dtype())
        found = stored_weights(values, asked(fields))
        assert torch.equal(found, dequantize(stored, scale, zero, told))
        assert stored.float().unique().numel() > 8
        assert (found - values).abs().max() > 0


@pytest.mark.parametrize("fields", SCHEMES, ids=str)
def test_activations_are_those_of_compressed_tensors(fields: dict[str, Any]) -> None:
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp

    _, told = arguments(fields)
    inputs = weights(torch.float32)[None].repeat(2, 1, 1) * torch.tensor([1.0, 3.0])[:, None, None]
    found = stored_activations(inputs, asked(fields))
    if told is None:
        assert found is inputs
        return
    scale, zero = compute_dynamic_scales_and_zp(inputs, told, None)
    assert torch.equal(found, fake_quantize(inputs, scale, zero, told))
    # Each token by itself, however many there are beside it.
    assert torch.equal(found[1, 7], stored_activations(inputs[1, 7:8], asked(fields))[0])


def test_nothing_that_was_given_is_changed() -> None:
    for fields in SCHEMES:
        values = weights(torch.float32)
        before = values.clone()
        stored_weights(values, asked(fields))
        stored_activations(values, asked(fields))
        assert torch.equal(values, before)
