"""LoRA adapters of the tiny model, made at random."""

from __future__ import annotations

import json
from pathlib import Path

from cluster.artifacts import Revision
from pipelines.adapter import import_adapter
from pipelines.publish import publish_adapter
from tests.e2e.conftest import Served

RANK = 4


def adapter(served: Served, base: Revision, model: Path, folder: Path, seed: int, **config: object) -> Revision:
    """A published adapter on `base`, whose weights are `model`; `config` is written into its adapter_config.json."""
    return publish_adapter(
        base, import_adapter(_peft(folder, model, seed, config), base, served.storage), served.storage
    )


def _peft(folder: Path, model: Path, seed: int, changes: dict[str, object]) -> Path:
    """On all query and down projections, and strong enough that every answer is another."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    generator, tensors = torch.Generator().manual_seed(seed), {}
    with safe_open(model / "model.safetensors", "pt") as weights:
        for name in weights.keys():  # noqa: SIM118  # no mapping
            if name.endswith(("q_proj.weight", "down_proj.weight")):
                rows, columns = weights.get_slice(name).get_shape()
                where = f"base_model.model.{name.removesuffix('.weight')}"
                tensors[f"{where}.lora_A.weight"] = torch.randn(RANK, columns, generator=generator)
                tensors[f"{where}.lora_B.weight"] = torch.randn(rows, RANK, generator=generator)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "bias": "none"}
    config |= {"target_modules": ["q_proj", "down_proj"], **changes}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
