"""One rank of the training run, as Ray Train starts it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cluster.artifacts import FileEntry, LossPoint, file_entries
from cluster.storage import Storage, local_copy, open_storage, staged_folder
from pipelines.config import TrainConfig
from pipelines.training import checkpoint
from pipelines.training.batches import Batches, open_batches
from pipelines.training.checkpoint import Record
from pipelines.training.losses import check_boundaries, next_token
from pipelines.training.schedule import learning_rate
from pipelines.training.tokens import TokenIndex
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


def worker(given: dict[str, Any]) -> dict[str, Any]:
    """Train to the last step and export; the return value of rank 0 goes into the manifest.

    Args:
        given: `plan`, a Plan as a dictionary; `figures`, an actor with `update(step, loss, tokens_per_s)`.
    """
    what = Plan(**given["plan"])
    config, storage = TrainConfig.model_validate(what.config), open_storage(what.storage)
    engine = build_engine(config, local_copy(storage, what.base))
    index = TokenIndex(**what.tokens, folder=what.tokens_folder)
    batches = open_batches(config, storage, index, engine.global_rank, engine.world_size)
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
    if not config.attend_across_documents:
        check_boundaries(engine)
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


def _train(engine: Any, config: TrainConfig, batches: Batches, record: Record, figures: Any) -> tuple[Record, float]:
    """Steps `record.step` to the last, with checkpoints. Returns the record and the speed in tokens/s over all ranks."""
    done, tokens_per_s = record, 0.0
    for done, steps_per_s in train_steps(engine, config, batches, record):
        tokens_per_s = steps_per_s * batches.share.sequences_per_step * batches.length
        if done.step < config.num_steps and done.step % config.checkpoint_every_steps == 0:
            checkpoint.save(engine, done)
        if engine.global_rank == 0:
            figures.update.remote(done.step, done.losses[-1].loss, tokens_per_s)
    return done, tokens_per_s


def train_steps(engine: Any, config: TrainConfig, batches: Batches, record: Record) -> Iterator[tuple[Record, float]]:
    """Train to the last step; the record after each one, and the speed so far in steps/s."""
    clock = Clock()
    for step in range(record.step, config.num_steps):
        rate = learning_rate(config, step)
        with clock:
            loss, taken = optimizer_step(engine, batches, step, rate)
        point = LossPoint(
            step=step + 1,
            loss=loss,
            learning_rate=rate,
            num_tokens=(step + 1) * batches.share.sequences_per_step * batches.length,
            sequences_checksum=taken,
        )
        record = Record(step=step + 1, losses=(*record.losses, point))
        yield record, clock.steps_per_s


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


def optimizer_step(engine: Any, batches: Batches, step: int, rate: float) -> tuple[float, int]:
    """One optimizer step over all ranks.

    Returns:
        The mean loss over the step's targets in nats, and the checksum of the sequences that all ranks took.
    """
    import torch
    import torch.distributed as dist

    # Dropout draws the same after a resume; nothing else in the loop is drawn.
    torch.manual_seed(batches.seed_of(step))
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    micro_batches = batches.of_step(step)
    agreed = torch.tensor([sum(b.num_targets for b in micro_batches), sum(b.checksum for b in micro_batches)])
    agreed = agreed.to(engine.device)
    dist.all_reduce(agreed)
    num_targets, checksum = agreed.tolist()
    # DeepSpeed divides by the ranks and the micro-batches, which hold different numbers of targets: undo that, so that
    # each target of the step weighs the same wherever it is computed.
    weight = num_targets / (batches.share.accumulation * batches.share.world_size)
    total = torch.zeros(1, device=engine.device)
    for batch in micro_batches:
        loss = next_token(engine, batch.to(engine.device))
        engine.backward(loss / weight)
        engine.step()  # DeepSpeed updates the weights at the last micro-batch of the step
        total += loss.detach()
    dist.all_reduce(total)
    return float(total) / num_targets, checksum % 2**32


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
