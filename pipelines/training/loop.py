"""One rank of the training run, as Ray Train starts it."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any, NamedTuple

from cluster.artifacts import FileEntry, LossPoint, file_entries
from cluster.storage import Storage, local_copy, open_storage, staged_folder
from pipelines.config import TrainConfig
from pipelines.training import checkpoint
from pipelines.training.checkpoint import Record
from pipelines.training.packing import Share, Stream, num_sequences, sequence_ids
from pipelines.training.schedule import learning_rate
from pipelines.training.tokens import TokenIndex, open_stream
from pipelines.training.zero3 import deepspeed_config


class Plan(NamedTuple):
    """What the driver tells every rank; plain values that travel well."""

    config: dict[str, Any]
    storage: str
    base: str
    """Storage folder of the model to start from."""
    tokens: dict[str, Any]
    tokens_folder: str
    run: str
    """Storage folder of the run."""
    export: str
    """Storage folder for the model made."""


class Batches(NamedTuple):
    """This rank's share of the data."""

    stream: Stream
    share: Share
    length: int
    num: int
    seed: int

    def micro_batch(self, step: int, micro: int) -> Any:
        """Token ids, sequences x length."""
        import torch

        ids = sequence_ids(self.share, step, micro, self.num, self.seed)
        return torch.stack([torch.from_numpy(self.stream.sequence(i, self.length)) for i in ids])


def worker(given: dict[str, Any]) -> dict[str, Any]:
    """Train to the last step and export; the return value of rank 0 goes into the manifest.

    Args:
        given: `plan`, a Plan as a dictionary; `figures`, an actor with `update(step, loss, tokens_per_s)`.
    """
    what = Plan(**given["plan"])
    config, storage = TrainConfig.model_validate(what.config), open_storage(what.storage)
    engine = build_engine(config, local_copy(storage, what.base))
    batches = _batches(config, storage, what)
    record = checkpoint.restore(engine)
    if engine.global_rank == 0:
        note_start(storage, what.run, record.step)
    record, tokens_per_s = _train(engine, config, batches, record, given["figures"])
    files = export(engine, storage, what)
    return {
        "losses": [point.model_dump() for point in record.losses],
        "tokens_per_s": tokens_per_s,
        "files": [entry.model_dump() for entry in files],
    }


def build_engine(config: TrainConfig, folder: Path) -> Any:
    """The model under DeepSpeed. With ZeRO stage 3 the weights are sharded while they are loaded: no rank holds all."""
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
    settings = deepspeed_config(config)
    sharded_load = HfDeepSpeedConfig(settings) if config.zero.stage == 3 else None  # in force while it is referenced
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, config.precision), local_files_only=True)
    model.config.use_cache = False
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    engine, *_ = deepspeed.initialize(
        model=model, model_parameters=decay_groups(model, config.weight_decay), config=settings
    )
    del sharded_load
    engine.train()
    return engine


def decay_groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; vectors (norms, biases) do not, as is usual since GPT-3 (Brown et al. 2020, appendix B)."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    # A sharded parameter is a flat piece; its own shape stands in ds_shape.
    matrices = [p for p in parameters if len(getattr(p, "ds_shape", p.shape)) >= 2]
    chosen = {id(p) for p in matrices}
    vectors = [p for p in parameters if id(p) not in chosen]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _batches(config: TrainConfig, storage: Storage, plan: Plan) -> Batches:
    import ray.train

    context = ray.train.get_context()
    stream = open_stream(storage, TokenIndex(**plan.tokens, folder=plan.tokens_folder))
    share = Share(
        context.get_world_rank(), context.get_world_size(), config.sequences_per_worker, config.gradient_accumulation
    )
    return Batches(
        stream, share, config.sequence_length, num_sequences(len(stream), config.sequence_length), config.seed
    )


def _train(engine: Any, config: TrainConfig, batches: Batches, record: Record, figures: Any) -> tuple[Record, float]:
    """Steps `record.step` to the last. Returns the record and the speed in tokens/s over all ranks."""
    tokens_per_step = batches.share.sequences_per_step * batches.length
    clock = Clock()
    for step in range(record.step, config.num_steps):
        rate = learning_rate(config, step)
        with clock:
            loss = optimizer_step(engine, batches, step, rate)
        point = LossPoint(step=step + 1, loss=loss, learning_rate=rate, num_tokens=(step + 1) * tokens_per_step)
        record = Record(step=step + 1, losses=(*record.losses, point))
        if record.step < config.num_steps and record.step % config.checkpoint_every_steps == 0:
            checkpoint.save(engine, record)
        if engine.global_rank == 0:
            figures.update.remote(record.step, loss, clock.steps_per_s * tokens_per_step)
    return record, clock.steps_per_s * tokens_per_step


class Clock:
    """Times optimizer steps; the first one of a worker, which allocates and compiles, is left out."""

    def __init__(self) -> None:
        self._steps, self._took_s, self._begun = -1, 0.0, 0.0

    def __enter__(self) -> None:
        self._begun = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._steps += 1
        if self._steps > 0:
            self._took_s += time.monotonic() - self._begun

    @property
    def steps_per_s(self) -> float:
        return self._steps / self._took_s if self._took_s else 0.0


def optimizer_step(engine: Any, batches: Batches, step: int, rate: float) -> float:
    """One optimizer step over all ranks; the mean loss in nats per token."""
    import torch
    import torch.distributed as dist

    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    total = torch.zeros(1, device=engine.device)
    for micro in range(batches.share.accumulation):
        tokens = batches.micro_batch(step, micro).to(engine.device)
        loss = engine(input_ids=tokens, labels=tokens).loss
        engine.backward(loss)
        engine.step()  # DeepSpeed updates the weights at the last micro-batch of the step
        total += loss.detach().float()
    dist.all_reduce(total)
    return float(total) / (batches.share.accumulation * batches.share.world_size)


def note_start(storage: Storage, run: str, step: int) -> None:
    """Append `step` to the list of steps at which workers started on this run."""
    storage.write(f"{run}/starts.json", json.dumps([*starts(storage, run), step]).encode())


def starts(storage: Storage, run: str) -> list[int]:
    """Steps at which workers started; all but the first are resumptions."""
    blob = storage.read(f"{run}/starts.json")
    return [] if blob is None else [int(step) for step in json.loads(blob.content)]


def export(engine: Any, storage: Storage, plan: Plan) -> tuple[FileEntry, ...]:
    """Write the whole model as safetensors with configuration and tokenizer, in the precision it was trained in.

    Returns its files on rank 0, nothing elsewhere.
    """
    import torch.distributed as dist

    whole = checkpoint.weights(engine)
    files: tuple[FileEntry, ...] = ()
    if engine.global_rank == 0:
        with staged_folder(storage, plan.export) as folder:
            files = save_model(engine.module, whole, local_copy(storage, plan.base), folder)
    dist.barrier()
    return files


def save_model(model: Any, whole: dict[str, Any], base: Path, folder: Path) -> tuple[FileEntry, ...]:
    """Fill `folder` with the weights `whole` of `model` and the tokenizer of `base`."""
    from transformers import AutoTokenizer

    model.config.use_cache = True
    model.save_pretrained(folder, state_dict=whole)
    AutoTokenizer.from_pretrained(base, local_files_only=True).save_pretrained(folder)
    return file_entries(folder, "model")
