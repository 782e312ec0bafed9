"""Which layers lose most in a scheme: the relative error of each layer's output on calibration text, before anything is changed.

For each linear layer |y - y'|^2 / |y|^2 over tokens, y' with weights (and where the scheme says so activations) rounded to the
nearest: one forward pass, where a loss for each layer takes one for each. It ranks layers; it does not foretell a score.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.config import QuantizeConfig
from pipelines.progress import say
from pipelines.rounding import stored_activations, stored_weights
from pipelines.schemes import is_ignored

if TYPE_CHECKING:
    from torch import Tensor

FILE = "sensitivity.json"
NUM_SEQUENCES = 4
"""Of the calibration set: a ranking of layers needs few."""
FUSED = ("q_proj|k_proj|v_proj", "gate_proj|up_proj")
"""Last parts of names that an engine runs as one matrix, so that they are stored in one scheme or not at all."""


@dataclass(frozen=True)
class Layer:
    """Modules that are stored alike, and their squared errors and outputs together."""

    modules: tuple[str, ...]
    relative_error: float


def rank(errors: Mapping[str, tuple[float, float]]) -> list[Layer]:
    """Layers from the most sensitive to the least.

    Args:
        errors: module -> (sum of squared errors, sum of squared outputs).
    """
    members: dict[str, list[str]] = {}
    for name in errors:
        members.setdefault(_layer(name), []).append(name)
    layers = [Layer(tuple(names), _ratio(errors[name] for name in names)) for names in members.values()]
    return sorted(layers, key=lambda layer: (-layer.relative_error, layer.modules))


def keep_most_sensitive(
    model: Any, sequences: Sequence[Sequence[int]], config: QuantizeConfig, folder: Path
) -> QuantizeConfig:
    """Measure, write what was found to `folder`, and return the configuration with the most sensitive layers left as they are."""
    if config.keep_most_sensitive is None or config.made_by is None:
        return config
    used = sequences[:NUM_SEQUENCES]
    layers = rank(measure(model, used, config))
    kept = [name for layer in layers[: config.keep_most_sensitive] for name in layer.modules]
    found = {
        "scheme": config.label,
        "num_tokens": sum(map(len, used)),
        "kept": kept,
        "layers": [{"modules": layer.modules, "relative_error": layer.relative_error} for layer in layers],
    }
    (folder / FILE).write_text(json.dumps(found, indent=1))
    worst = ", ".join(f"{' '.join(layer.modules)} {layer.relative_error:.2%}" for layer in layers[:3])
    say("quantize", f"most sensitive of {len(layers)} layers: {worst}; {len(kept)} modules are kept in bfloat16")
    return config.replace(ignore=(*config.ignore, *kept))


def measure(model: Any, sequences: Sequence[Sequence[int]], config: QuantizeConfig) -> dict[str, tuple[float, float]]:
    """Module -> (sum of squared errors, sum of squared outputs) of each linear layer that the scheme would store."""
    import torch

    sums: dict[str, tuple[float, float]] = {}

    def watch(name: str) -> Any:
        def hook(module: Any, inputs: tuple[Tensor, ...], _: Tensor) -> None:
            found, whole = _squares(inputs[0], module.weight, config)
            before = sums.get(name, (0.0, 0.0))
            sums[name] = before[0] + found, before[1] + whole

        return hook

    handles = [
        module.register_forward_hook(watch(name))
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and not is_ignored(name, config.ignore)
    ]
    try:
        with torch.no_grad():
            for tokens in sequences:
                model(torch.tensor([list(tokens)], device=next(model.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    return sums


def _squares(inputs: Tensor, weight: Tensor, config: QuantizeConfig) -> tuple[float, float]:
    x, w = inputs.detach().float().flatten(0, -2), weight.detach().float()
    y = x @ w.T
    error = y - stored_activations(x, config) @ stored_weights(w, config).T
    return float((error**2).sum()), float((y**2).sum())


def _layer(module: str) -> str:
    for fused in FUSED:
        module = re.sub(rf"(^|\.)({fused})$", rf"\1({fused})", module)
    return module


def _ratio(sums: Iterable[tuple[float, float]]) -> float:
    errors, outputs = (sum(column) for column in zip(*sums, strict=True))
    return errors / outputs if outputs else 0.0
