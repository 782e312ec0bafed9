"""vLLM offline, in a Ray actor, never in the driver: how an engine is started. The only module of the pipelines that imports vllm
to do so."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from cluster.errors import InputError, ResourceError
from cluster.imports import large_imports
from cluster.session import CPU_WORKER
from pipelines.kv_cache import is_fp8

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in the actor's own process: dies with it, starts sooner
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin at a barrier take the cores from what else runs there
    "HF_HUB_OFFLINE": "1",  # a model is a folder; nothing is ever fetched
    "PYTHONFAULTHANDLER": "1",  # one that a signal ends leaves its stack in the log, not nothing
}
CPU_BLOCK_TOKENS = 32
"""Of the KV cache, the smallest that vLLM's CPU attention takes: prompts are shared in whole blocks."""
MAX_BATCHED_TOKENS = 1024
"""Per engine step: bounds the logits of a batch (tokens x vocabulary x 4 bytes, several copies)."""
GIB = 1 << 30
OVERHEAD_BYTES = 3 * GIB
"""Of an engine on CPUs beside weights and cache: libraries, and log-probabilities of a batch over the whole vocabulary."""


def load_engine(
    folder: str,
    *,
    dtype: str,
    max_model_len: int,
    num_gpus: int,
    kv_cache_gib: float,
    seed: int,
    field: str,
    **more: Any,
) -> Any:
    """vLLM's LLM of a model folder.

    Args:
        num_gpus: 0 computes on all of the machine's cores, with `kv_cache_gib` of cache.
        field: of the recipe: whose `max_model_len` it is, for people.
        more: other arguments of vLLM's.

    Raises:
        InputError: vLLM refuses the model.
        ResourceError: it does not fit into a GPU's memory.
    """
    if not num_gpus:
        use_all_cores()
    with large_imports():
        import torch
        from safetensors import SafetensorError
        from vllm import LLM

    where: dict[str, Any] = (
        {"tensor_parallel_size": num_gpus}
        if num_gpus
        else {"kv_cache_memory_bytes": int(kv_cache_gib * GIB), "block_size": CPU_BLOCK_TOKENS, **CPU_WORKER}
    )
    try:
        config = Path(folder, "config.json").read_bytes()
        return LLM(
            folder,
            dtype=dtype,
            max_model_len=max_model_len,
            max_num_batched_tokens=max(MAX_BATCHED_TOKENS, max_model_len),
            max_num_seqs=64,
            enable_prefix_caching=True,
            kv_cache_dtype="fp8" if is_fp8(json.loads(config)) else "auto",  # said, so that vLLM refuses or does it
            enforce_eager=True,  # a run is too short to earn back a compilation
            seed=seed,
            **where,
            **more,
        )
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            field.rpartition(".")[0],
            f"the engine does not fit into the GPU's memory ({str(error).splitlines()[0][:200]})",
            f"stop what else runs there, give it more GPUs, or lower {field}",
        ) from None
    except (ValueError, OSError, RuntimeError, SafetensorError) as error:
        raise InputError(
            folder, f"vLLM cannot load it: {str(error).strip()[:500]}", f"mend the model folder or {field}"
        ) from None


def use_all_cores() -> None:
    """Ray limits OpenMP to the CPUs a task reserves, which here are bookkeeping."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
