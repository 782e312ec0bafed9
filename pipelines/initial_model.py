"""Models that have learnt nothing yet: the base model's architecture and tokenizer, random weights, a size of their own."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from cluster import artifacts
from cluster.artifacts import FileEntry, InitialModel, Weights, file_entries
from cluster.errors import ConfigError
from cluster.imports import large_imports
from cluster.node_cache import local_copy
from cluster.storage import Storage, open_storage, staged_folder
from pipelines.base_model import on_train_pool
from pipelines.config import SizeConfig
from pipelines.progress import say
from pipelines.training.shape import shape_of
from pipelines.training.sizes import place, resolve

NOT_TOKENIZER = ("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json")
"""Files of a model's folder that are not carried on. The others are taken as they are, so that tokens made for one size are
found again for the next."""


def initial_model(base: Weights, stage: int, sizes: SizeConfig, seed: int, storage: Storage) -> InitialModel:
    """A stage's model before training, drawn from `seed`.

    Args:
        stage: from 0.

    Raises:
        ConfigError: there is no model of such sizes.
    """
    begun, settings = time.monotonic(), {"sizes": sizes.model_dump(), "seed": seed}
    key = artifacts.stage_key("initialize", settings, {"base": base.digest})
    if made := artifacts.load(storage, InitialModel, key):
        return made
    files, num_parameters = on_train_pool(_draw, storage.location, base.folder, stage, settings, key)
    entries = tuple(FileEntry(**entry) for entry in files)
    say("train", f"drew {num_parameters / 1e6:.3g} M random weights")
    return artifacts.save(
        storage,
        InitialModel(
            key=key,
            inputs={"base": base.digest},
            config=settings,
            files=entries,
            took_s=round(time.monotonic() - begun, 1),
            num_parameters=num_parameters,
            num_weight_bytes=sum(entry.num_bytes for entry in entries if entry.path.endswith(".safetensors")),
            seed=seed,
        ),
    )


def count_parameters(base: Weights, stages: list[SizeConfig], storage: Storage) -> list[int]:
    """Of each stage's model. They are built without memory for their weights.

    Raises:
        ConfigError: there is no model of such sizes.
    """
    return on_train_pool(_count, storage.location, base.folder, [sizes.model_dump() for sizes in stages])


def _count(storage: str, base: str, stages: list[dict[str, Any]]) -> list[int]:
    with large_imports():
        import torch

    found, folder = [], local_copy(open_storage(storage), base)
    with torch.device("meta"):
        for stage, sizes in enumerate(stages):
            found.append(sum(p.numel() for p in _build(folder, stage, sizes).parameters()))
    return found


def _draw(storage: str, base: str, stage: int, settings: dict[str, Any], key: str) -> tuple[list[dict[str, Any]], int]:
    """Write `artifacts/initial/<key>/model`. Returns its files and the number of parameters."""
    with large_imports():
        import torch

    folder = local_copy(open_storage(storage), base)
    torch.manual_seed(settings["seed"])
    model = _build(folder, stage, settings["sizes"]).to(torch.bfloat16)
    with staged_folder(open_storage(storage), f"artifacts/initial/{key}/model") as target:
        model.save_pretrained(target)
        for path in folder.iterdir():
            if not any(path.match(pattern) for pattern in NOT_TOKENIZER):
                shutil.copyfile(path, target / path.name)
        files = [entry.model_dump() for entry in file_entries(target, "model")]
    return files, sum(parameter.numel() for parameter in model.parameters())


def _build(folder: Path, stage: int, sizes: dict[str, Any]) -> Any:
    """Raises ConfigError where transformers cannot."""
    with large_imports():
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    try:
        found = resolve(SizeConfig(**sizes), shape_of(config.to_dict()), place(stage))
        _resize(config, found)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        found_there = f"transformers builds no such {config.model_type} ({reason})"
        raise ConfigError(
            place(stage), found_there, "give other sizes, or a Llama-like model as model.source"
        ) from None


def _resize(config: Any, sizes: dict[str, int]) -> None:
    """Set the sizes in a configuration of transformers; kinds of layers are repeated in their order or cut."""
    for field, value in sizes.items():
        if field != "head_dim" or hasattr(config, field):
            setattr(config, field, value)
    if kinds := getattr(config, "layer_types", None):
        num = sizes["num_hidden_layers"]
        config.layer_types = (kinds * -(-num // len(kinds)))[:num]
