"""TrainConfig -> the DeepSpeed dictionary, and what a run needs of memory and disk. Pure."""

from __future__ import annotations

from typing import Any

from cluster.arithmetic import settled
from cluster.errors import ConfigError
from pipelines.config import TrainConfig, ZeroConfig

BUCKET = 5e8
"""Values in a bucket of gradients to be reduced: DeepSpeed's default of zero_optimization.reduce_bucket_size."""


def deepspeed_config(config: TrainConfig) -> dict[str, Any]:
    """The dictionary for deepspeed.initialize, of a settled precision. `zero.extra` is merged over it last, key by key."""
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": config.sequences_per_worker,
        # A private step comes as one gradient that is cut and has its noise (private_step.py).
        # A pipeline's schedule goes through all micro-batches of a step by itself (pipeline.py).
        "gradient_accumulation_steps": 1 if config.privacy or config.parallel.pipeline > 1 else config.accumulation,
        "gradient_clipping": 0.0 if config.privacy else config.max_gradient_norm,
        "optimizer": _optimizer(config),
        "bf16": {"enabled": config.precision == "bfloat16"},
        "zero_optimization": _sharding(config),
        "zero_allow_untested_optimizer": True,
        # torch's AdamW works with offloaded states too and needs no compiler on the machine.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }
    if config.parallel.tensor > 1:
        # The loss takes all logits. Left to itself DeepSpeed would give each rank those of its part of the vocabulary.
        settings["tensor_parallel"] = {"autotp_size": config.parallel.tensor, "vocab_parallel_lm_head": False}
    return merge(settings, config.zero.extra)


def with_bucket(settings: dict[str, Any], zero: ZeroConfig, num_trained: int) -> dict[str, Any]:
    """The same for so many trained weights of a rank's model."""
    return merge(settings, {"zero_optimization": {"reduce_bucket_size": bucket(zero, num_trained)}})


def bucket(zero: ZeroConfig, num_trained: float) -> int:
    """Gradients that are reduced together: as many as `zero.extra` says, else all of the model's, up to DeepSpeed's own default,
    for DeepSpeed reserves a bucket whole.

    Raises:
        ConfigError: `zero.extra` says no number.
    """
    asked = zero.extra.get("zero_optimization", {}).get("reduce_bucket_size", min(BUCKET, num_trained))
    try:
        return int(asked)
    except (TypeError, ValueError):
        field = "train.zero.extra.zero_optimization.reduce_bucket_size"
        raise ConfigError(
            field, f"is {asked!r}", "give a number of values, or leave it out: it is fitted to the model"
        ) from None


def _optimizer(config: TrainConfig) -> dict[str, Any]:
    return {
        "type": "AdamW",
        "params": {
            "lr": config.learning_rate,
            "betas": list(config.betas),
            "eps": config.eps,
            "weight_decay": config.weight_decay,
            "torch_adam": True,
        },
    }


def _sharding(config: TrainConfig) -> dict[str, Any]:
    zero = config.zero
    sharding: dict[str, Any] = {"stage": zero.stage}
    pinned = config.gpus_per_worker > 0
    if zero.stage >= 1:
        # Behind a pipeline's schedule all gradients are there already: there is nothing to overlap.
        behind = config.parallel.pipeline > 1
        sharding |= {"contiguous_gradients": not behind, "overlap_comm": pinned and not behind}
    if zero.offload_optimizer:
        sharding["offload_optimizer"] = {"device": "cpu", "pin_memory": pinned}
    if zero.offload_parameters:
        sharding["offload_param"] = {"device": "cpu", "pin_memory": pinned}
    return sharding


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over`, mappings merged key by key."""
    both = {key: merge(base[key], over[key]) for key in base.keys() & over.keys() if _mappings(base[key], over[key])}
    return {**base, **over, **both}


def _mappings(one: Any, other: Any) -> bool:
    return isinstance(one, dict) and isinstance(other, dict)


def state_bytes(num_parameters: int, config: TrainConfig) -> int:
    """Model states of all ranks together: weights, gradients, AdamW's two moments and, for bf16, the fp32 master copy.

    2 + 2 + 12 bytes a parameter in mixed precision (Rajbhandari et al. 2020, section 3.1), 4 + 4 + 8 in fp32. Stage 1
    shards the optimizer's part over the ranks, stage 2 the gradients too, stage 3 all. Activations are not counted, nor are
    an adapter's own states, which are small beside the frozen weights.
    """
    width, states = (4, 8) if settled(config.precision, config.gpus_per_worker > 0) == "float32" else (2, 12)
    states += 8 if config.consolidation else 0  # Fisher's diagonal and the old weights, shared out like the moments
    ranks = config.replicas  # what shares out a copy of the model adds little: its embedding is counted once
    copies = {"weights": ranks, "gradients": ranks, "states": ranks}
    for part, from_stage in (("states", 1), ("gradients", 2), ("weights", 3)):
        if config.zero.stage >= from_stage:
            copies[part] = 1
    trained = 0 if config.lora else width * copies["gradients"] + states * copies["states"]
    if config.privacy and not config.lora:
        trained += 4 * ranks  # the float32 sum of the examples' gradients
    return num_parameters * (width * copies["weights"] + trained)


def host_bytes(num_parameters: int, config: TrainConfig) -> int:
    """Of `state_bytes`, what lies in the hosts' memory: everything on CPUs, the offloaded parts with GPUs."""
    if config.gpus_per_worker == 0:
        return state_bytes(num_parameters, config)
    width, states = (4, 8) if config.precision == "float32" else (2, 12)
    states = 0 if config.lora else states
    return num_parameters * (states * config.zero.offload_optimizer + width * config.zero.offload_parameters)


def checkpoints_written(config: TrainConfig) -> int:
    """How many a run writes that nothing interrupts: none behind its last step."""
    return (config.num_steps - 1) // config.checkpoint_every_steps


def copy_bytes(num_parameters: int, config: TrainConfig) -> int:
    """Of all hosts' memory, for the copy of the states that a checkpoint is written from (checkpoint.py)."""
    if not config.checkpoint_asynchronously or not checkpoints_written(config) or config.lora:
        return 0
    return 12 * num_parameters


def disk_bytes(num_parameters: int, config: TrainConfig) -> int:
    """Room for the kept checkpoints (12 bytes a parameter: float32 weights and two moments), one more while it is
    written, the export, and what consolidation keeps with it."""
    width = 4 if config.precision == "float32" else 2
    kept = 0 if config.lora else 12 * min(kept_checkpoints(config) + 1, checkpoints_written(config))
    kept += 4 if config.consolidation else 0  # Fisher's diagonal, for the next run of a chain
    return num_parameters * (kept + width)


def kept_checkpoints(config: TrainConfig) -> int:
    """How many stay: three at least while an incident may send the run back (guard.py). The newest may hold the harm; the one
    before is gone back to, and must still be there when the same step has been come to again."""
    return max(config.keep_checkpoints, 3 if config.max_skipped_steps else 1)
