"""LoRA (Hu et al. 2021, arXiv 2106.09685): low-rank matrices beside frozen weights are trained in their place.

The adapter lies inside the model as PEFT puts it there, so that the loop, ZeRO and the checkpoints see a model of which few
parameters are trained. It is exported twice: alone, as PEFT writes it, and merged into the base's weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.errors import ConfigError
from pipelines.config import LoraConfig

NAME = "default"
"""PEFT's own name of a model's first adapter."""
BASE = ".base_layer"
"""What PEFT puts into the names of the frozen weights beside an adapter's."""


def add_adapter(model: Any, config: LoraConfig) -> Any:
    """Freeze the model and put an untrained adapter into it, in place, which changes nothing of what it says yet.

    Returns:
        PEFT's configuration of it, with the modules by name.

    Raises:
        ConfigError: the model has no such modules, or their weights are tied to others.
    """
    from peft import inject_adapter_in_model

    for parameter in model.parameters():
        parameter.requires_grad_(False)
    tied = {"lm_head", "embed_tokens"} & set(
        config.target_modules if not isinstance(config.target_modules, str) else ()
    )
    if tied and model.config.tie_word_embeddings:
        found = f"{sorted(tied)[0]} shares its weights with another layer of this model, where an adapter of one would be lost"
        raise ConfigError("train.lora.target_modules", found, "leave it out")
    asked = peft_config(config)
    try:
        inject_adapter_in_model(asked, model, NAME)
    except ValueError as error:
        found = f"{config.target_modules}: {str(error).splitlines()[0]}"
        raise ConfigError(
            "train.lora.target_modules", found, "name linear modules of the model, or `all-linear`"
        ) from None
    return asked


def peft_config(config: LoraConfig) -> Any:
    """The same in PEFT's words."""
    import peft

    modules = config.target_modules if isinstance(config.target_modules, str) else list(config.target_modules)
    return peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=modules,
        bias="none",
        task_type="CAUSAL_LM",
    )


def save_adapter(asked: Any, whole: dict[str, Any], folder: Path) -> None:
    """Fill `folder` as PEFT's save_pretrained does: adapter_config.json and adapter_model.safetensors.

    Args:
        asked: PEFT's configuration, as `add_adapter` gives it.
        whole: all weights of the model with the adapter in it, by name.
    """
    from safetensors.torch import save_file

    asked.inference_mode = True
    # PEFT puts whole names there in no order; their ends say the same, and the file's hash stays that of its content.
    asked.target_modules = sorted({name.rpartition(".")[2] for name in asked.target_modules})
    asked.save_pretrained(folder)
    tensors = {name: tensor.contiguous() for name, tensor in adapter_tensors(whole).items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def adapter_tensors(whole: dict[str, Any]) -> dict[str, Any]:
    """The adapter's matrices under the names that PEFT's files have."""
    return {
        f"base_model.model.{name.replace(f'.{NAME}.', '.')}": tensor
        for name, tensor in whole.items()
        if _is_adapters(name)
    }


def merged(whole: dict[str, Any], scaling: float) -> dict[str, Any]:
    """The weights of the model without an adapter that says the same: W + scaling x B A, in float32, then rounded as W is.

    Weights that no adapter stands beside are the same objects as before.
    """
    return {
        name.replace(f"{BASE}.", "."): _with_adapter(name, whole, scaling) for name in whole if not _is_adapters(name)
    }


def _with_adapter(name: str, whole: dict[str, Any], scaling: float) -> Any:
    weight = whole[name]
    if not name.endswith(f"{BASE}.weight"):
        return weight
    module = name.removesuffix(f"{BASE}.weight")
    a, b = (whole[f"{module}.lora_{side}.{NAME}.weight"].float() for side in "AB")
    return (weight.float() + scaling * (b @ a)).to(weight.dtype)


def _is_adapters(name: str) -> bool:
    return f".lora_A.{NAME}." in name or f".lora_B.{NAME}." in name
