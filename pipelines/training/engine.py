"""The model under DeepSpeed."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cluster.arithmetic import settled
from cluster.errors import ConfigError
from cluster.imports import large_imports
from pipelines.config import TrainConfig
from pipelines.training import layout
from pipelines.training.lora import add_adapter
from pipelines.training.losses import check_boundaries
from pipelines.training.parallel import check_plan
from pipelines.training.pipeline import Stages, check_frame, cut, schedule
from pipelines.training.shape import check_parallel, shape_of
from pipelines.training.zero3 import deepspeed_config, with_bucket


@contextmanager
def own_fields() -> Iterator[None]:
    """Raises ConfigError for what DeepSpeed's own models of its configuration refuse, which only `zero.extra` can bring them."""
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(
            "train.zero.extra",
            f"DeepSpeed's {error.title} refuses {place} = {first['input']!r} ({first['msg']})",
            "correct the field's name or value",
        ) from None


@own_fields()
def build_engine(config: TrainConfig, folder: Path) -> Any:
    """The model under DeepSpeed. With ZeRO stage 3 the weights are sharded while they are loaded: no rank holds all.

    Raises:
        ConfigError: the model cannot be trained so; on all ranks.
    """
    with large_imports():
        import deepspeed
        import torch
        from deepspeed.utils import logger
        from transformers import AutoModelForCausalLM
        from transformers.integrations import HfDeepSpeedConfig

    logger.setLevel(logging.ERROR)
    # Below one would share the thread count of torch's default, all cores, among ranks that already fill them.
    torch.set_num_threads(max(1, int(config.cpus_per_worker)))
    torch.manual_seed(config.seed)
    # Only its tensor-parallel inference uses this operator, and on CPUs every start would compile it for half a minute.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="nccl" if config.gpus_per_worker else "gloo")
    narrow = config.precision == "auto"
    config = config.replace(precision=common_precision(config))
    settings = deepspeed_config(config)
    whole = (
        config.zero.stage < 3 or config.parallel.tensor > 1
    )  # what is cut up between ranks of a copy is loaded whole
    sharded_load = None if whole else HfDeepSpeedConfig(settings)  # in force while it is referenced
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, config.precision), local_files_only=True)
    model.config.use_cache = False
    if config.parallel.tensor > 1:
        check_plan(model)
    if config.parallel.workers > 1:
        check_parallel(shape_of(model.config.to_dict()), config.parallel)
    if config.quantization_aware:
        from pipelines.training.quantization_aware import round_forward  # it needs torch to be imported

        round_forward(model, config.quantization_aware, narrow=narrow)
    if config.parallel.pipeline > 1:
        return _pipelined(model, config, settings)
    adapter = add_adapter(model, config.lora) if config.lora else None
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable()
        if adapter:
            model.enable_input_require_grads()  # else nothing before the first adapter asks for a gradient
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=decay_groups(model, config.weight_decay),
        config=with_bucket(settings, config.zero, num_trained(model)),
    )
    layout.begin(engine)
    del sharded_load
    engine.adapter = adapter
    engine.train()
    packed = config.method.kind in ("causal", "instruct") and config.privacy is None
    if packed and not config.attend_across_documents:
        check_boundaries(engine)
    return engine


def _pipelined(model: Any, config: TrainConfig, settings: dict[str, Any]) -> Any:
    """The engine of this rank's stage of the model; `engine.schedule` goes through a step (pipeline.py)."""
    import deepspeed

    check_frame(model)
    if not config.attend_across_documents:
        check_boundaries(model)  # while it is whole
    stages = Stages(config.parallel.pipeline, config.parallel.tensor)
    cut(model, stages)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    groups = decay_groups(model, config.weight_decay)
    settings = with_bucket(settings, config.zero, num_trained(model))
    engine, *_ = deepspeed.initialize(model=model, model_parameters=groups, config=settings, mpu=stages.mpu)
    engine.train()
    engine.adapter, engine.stages = None, stages
    engine.schedule = schedule(engine, stages, config.sequences_per_worker, config.sequence_length, config.accumulation)
    return engine


def common_precision(config: TrainConfig) -> str:
    """`train.precision`, where `auto` is what the weakest rank settles for: all must shard the same bytes."""
    import torch
    import torch.distributed as dist

    if config.gpus_per_worker or config.precision != "auto":
        return settled(config.precision, on_gpu=True)
    narrow = torch.tensor(int(settled("auto", on_gpu=False) == "bfloat16"))
    dist.all_reduce(narrow, dist.ReduceOp.MIN)
    return "bfloat16" if narrow.item() else "float32"


def device_name(device: Any) -> str:
    """As CUDA gives it, or the processor's architecture."""
    import platform

    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"


def precision_of(engine: Any) -> str:
    """What matrices are multiplied in."""
    return str(engine.module.dtype).removeprefix("torch.")


def num_trained(model: Any) -> int:
    """Weights of this rank's model that get gradients, those that are sharded counted whole."""
    return sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters() if p.requires_grad)


def decay_groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; vectors (norms, biases) do not, as is usual since GPT-3 (Brown et al. 2020, appendix B)."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    # A sharded parameter is a flat piece; its own shape stands in ds_shape.
    matrices = [p for p in parameters if len(getattr(p, "ds_shape", p.shape)) >= 2]
    chosen = {id(p) for p in matrices}
    vectors = [p for p in parameters if id(p) not in chosen]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
