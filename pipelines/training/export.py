"""The model that a run made, as files that anything reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.artifacts import FileEntry, file_entries
from cluster.node_cache import local_copy
from cluster.storage import Storage, staged_folder
from pipelines.config import TrainConfig
from pipelines.training import checkpoint
from pipelines.training.lora import merged, save_adapter
from pipelines.training.worker_plan import Plan


def export(engine: Any, config: TrainConfig, storage: Storage, plan: Plan) -> tuple[FileEntry, ...]:
    """Write the whole model as safetensors with configuration and tokenizer, in `train.precision` (bfloat16 for `auto`); an
    adapter also by itself.

    Returns the files on rank 0, nothing elsewhere.
    """
    import torch.distributed as dist

    whole = checkpoint.weights(engine)
    files: tuple[FileEntry, ...] = ()
    if engine.global_rank == 0 and config.lora:
        with staged_folder(storage, plan.adapter) as folder:
            save_adapter(engine.adapter, whole, folder)
            files = file_entries(folder, "adapter")
        whole = merged(whole, config.lora.scaling)
    if engine.global_rank == 0:
        with staged_folder(storage, plan.export) as folder:
            narrow = config.precision == "auto"
            files += save_model(engine.module, whole, local_copy(storage, plan.base), folder, narrow)
    dist.barrier()
    return files


def save_model(
    model: Any, whole: dict[str, Any], base: Path, folder: Path, narrow: bool = False
) -> tuple[FileEntry, ...]:
    """Fill `folder` with the weights `whole` of `model`, rounded to bfloat16 if `narrow`, and the tokenizer of `base`."""
    import torch
    from transformers import AutoConfig, AutoTokenizer

    model.config.use_cache = True
    if narrow:
        rounded = {weight.data_ptr(): weight.to(torch.bfloat16) for weight in whole.values()}
        whole = {name: rounded[weight.data_ptr()] for name, weight in whole.items()}  # tied weights stay one
    model.save_pretrained(folder, state_dict=whole)
    if narrow:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        config.dtype = torch.bfloat16
        config.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base, local_files_only=True).save_pretrained(folder)
    return file_entries(folder, "model")
