"""Schemes and methods in llmcompressor's words. Imported in the quantization task alone."""

from __future__ import annotations

from typing import Any

from pipelines.config import QuantizeConfig
from pipelines.kv_cache import CACHE_SCHEME
from pipelines.quantization import gptq_kernel

PRESETS = {"W8A8": "W8A8", "FP8": "FP8_DYNAMIC"}
"""Scheme -> compressed-tensors' name for it. Its W4A16 is fixed to groups of 128, so ours is spelled out."""


def target(config: QuantizeConfig) -> dict[str, Any]:
    """Which layers are stored how, as every modifier of llmcompressor takes it."""
    asked: dict[str, Any] = {"ignore": list(config.ignore)}
    if config.kv_cache == "fp8":
        # The largest of all that was seen: by default it is a moving average, in which the first sequence weighs most.
        asked["kv_cache_scheme"] = {**CACHE_SCHEME, "observer": "static_minmax"}
    if config.made_by is None:
        return asked
    if config.scheme in PRESETS:
        return {"targets": "Linear", "scheme": PRESETS[config.scheme], **asked}
    weights = {
        "num_bits": 4,
        "type": "int",
        "strategy": "group",
        "group_size": config.groups_of,
        "symmetric": True,
        "dynamic": False,
    }
    return {"config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}, **asked}


def quantize_in_place(model: Any, sequences: list[list[int]], config: QuantizeConfig) -> None:
    """Quantize the model's linear layers, and find the scales of its cache.

    Args:
        sequences: token ids to calibrate with; rtn does not look at them, nor does a cache without scales.
    """
    from llmcompressor import oneshot

    if not config.is_calibrated and config.kv_cache != "fp8":
        oneshot(model=model, recipe=_modifiers(config))
        return
    from datasets import Dataset as Rows

    rows = Rows.from_dict({"input_ids": sequences, "attention_mask": [[1] * len(tokens) for tokens in sequences]})
    oneshot(
        model=model,
        dataset=rows,
        recipe=_modifiers(config),
        max_seq_length=config.calibration_length,
        num_calibration_samples=len(sequences),
        shuffle_calibration_samples=False,  # drawn by our seed; sums in another order round otherwise
    )


def _modifiers(config: QuantizeConfig) -> Any:
    match config.made_by:
        case "gptq":
            from llmcompressor.modifiers.gptq import GPTQModifier

            gptq_kernel.install()
            return GPTQModifier(**target(config))
        case "awq":
            from llmcompressor.modifiers.quantization import QuantizationModifier

            _pin_nothing_without_an_accelerator()
            return [_awq(), QuantizationModifier(**target(config))]
        case "rtn" | None:
            from llmcompressor.modifiers.quantization import QuantizationModifier

            return QuantizationModifier(**target(config))


def _pin_nothing_without_an_accelerator() -> None:
    """AWQ of llmcompressor 0.14 pins what it has cached, for quicker copies to a GPU, and torch refuses to where there is none."""
    import torch
    from llmcompressor.pipelines.cache import IntermediatesCache

    if not torch.accelerator.is_available():
        IntermediatesCache.pin_memory = lambda *_: None


def _awq() -> Any:
    """AWQ that leaves alone what feeds only layers kept in bfloat16: llmcompressor 0.14 divides by their number, which is zero."""
    from llmcompressor.modifiers.transform.awq import AWQModifier

    class AWQOfQuantizedLayers(AWQModifier):
        def _set_resolved_mappings(self, model: Any) -> None:
            super()._set_resolved_mappings(model)
            self._resolved_mappings = [
                mapping
                for mapping in self._resolved_mappings  # type: ignore[has-type]
                if any(hasattr(layer, "quantization_scheme") for layer in mapping.balance_layers)
            ]

    return AWQOfQuantizedLayers()
