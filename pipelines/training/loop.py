"""One rank of the training run, as Ray Train starts it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from cluster.errors import UserError
from cluster.node_cache import local_copy
from cluster.storage import Storage, open_storage
from pipelines.config import CausalConfig, GrpoConfig, InstructConfig, PreferenceConfig, TrainConfig
from pipelines.training import checkpoint
from pipelines.training.batches import Batches, Conversations, Pairs, Replay
from pipelines.training.checkpoint import Record
from pipelines.training.common import in_common
from pipelines.training.energy import Meter, meter_of
from pipelines.training.engine import build_engine, device_name, precision_of
from pipelines.training.examples import fill, load_examples
from pipelines.training.export import export
from pipelines.training.figures import figures_of, gradient_norm
from pipelines.training.grpo import Answers, answers_of
from pipelines.training.hang import TRAINING
from pipelines.training.heartbeat import Heartbeat, heartbeat
from pipelines.training.held import hold_old
from pipelines.training.heldout import heldout_pairs, measured
from pipelines.training.ledger import utilization
from pipelines.training.packing import Share
from pipelines.training.parallel import replica
from pipelines.training.preemption import Left, must_leave
from pipelines.training.private_examples import Examples
from pipelines.training.private_run import examples_of
from pipelines.training.reference import reference
from pipelines.training.saving import Saver
from pipelines.training.starts import note_start
from pipelines.training.teacher import load_teacher
from pipelines.training.tokens import packed
from pipelines.training.train_steps import Data, Diverged, train_steps
from pipelines.training.worker_plan import Plan


def worker(given: dict[str, Any]) -> dict[str, Any]:
    """Train to the last step and export; the return value of rank 0 goes into the manifest.

    Args:
        given: `plan`, a Plan as a dictionary; `figures`, an actor with `update(step, values)`, `tell(doing)`,
            `resumed(times)`, `used(utilization)`, `heard(rank, beat)` and `ended(rank)`.
    """
    import ray.train

    what, figures = Plan(**given["plan"]), given["figures"]
    config = TrainConfig.model_validate(what.config)
    with heartbeat(figures, ray.train.get_context().get_world_rank(), config.hang_timeout_s) as own:
        try:
            return _work(config, what, figures, own)
        except Diverged as why:
            return {"diverged": str(why)}  # not raised: workers that start again would come to the same
        except Left as left:
            return {"left_at_step": left.step}  # not raised: it is no failure
        except _Refused as why:
            return {"refused": why.__cause__}


class _Refused(Exception):
    """Because of an error of ours that all ranks have found. Raised in their place it would be a failure, and workers that start
    again would find the same."""


@contextmanager
def _found_by_all() -> Iterator[None]:
    try:
        yield
    except UserError as why:
        raise _Refused from why


def _work(config: TrainConfig, what: Plan, figures: Any, own: Heartbeat) -> dict[str, Any]:
    storage = open_storage(what.storage)
    base = local_copy(
        storage, what.base
    )  # where one node alone lacks it or its room, the others wait for its rank: a failure
    with _found_by_all():
        engine = build_engine(config, base)
    own.count_forwards(engine.module)
    own.at("preparing")
    if config.method.kind == "dpo" and engine.global_rank == 0:
        figures.tell.remote("scoring all answers by the model that training begins with")
    if config.method.kind == "grpo" and engine.global_rank == 0:
        figures.tell.remote("starting the engines that answer")
    with _found_by_all():
        in_common(partial(_fetch, storage, what))
        batches = _batches(engine, config, storage, what)
        teacher = load_teacher(config, local_copy(storage, what.teacher), engine) if what.teacher else None
    old = hold_old(engine, config, storage, what)
    pairs = heldout_pairs(engine, config, storage, what)
    own.at("reading a checkpoint")
    with _found_by_all():
        record = checkpoint.restore(engine)
    if engine.global_rank == 0:
        _begun(engine, config, storage, what, step=record.step, figures=figures)
    with _found_by_all():
        meter = meter_of(engine, "engines that answer" if isinstance(batches, Answers) else "")
        record, tokens_per_s = _train(engine, config, batches, record, figures, own=own, teacher=teacher, meter=meter)
    own.at("finishing", record.step)
    retention = old.retention(engine)
    if pairs and engine.global_rank == 0:
        figures.tell.remote(f"scoring {pairs.num} held-out pairs")
    preference = pairs and measured(engine, config, pairs)
    own.at("exporting the model", record.step)
    files = export(engine, config, storage, what) + old.keep(engine, storage, what.importance)
    return _of_steps(engine, record, tokens_per_s) | {
        "files": [entry.model_dump() for entry in files],
        "retention": None if retention is None else retention.model_dump(),
        "preference": preference and preference.model_dump(),
    }


def _of_steps(engine: Any, record: Record, tokens_per_s: float) -> dict[str, Any]:
    """What the driver takes into the manifest of how the steps went."""
    return {
        "losses": [point.model_dump() for point in record.losses],
        "incidents": [incident.model_dump() for incident in record.incidents],
        "tokens_per_s": tokens_per_s,
        "trained_s": record.trained_s,
        "energy_j": record.energy_j,
        "energy_basis": record.energy_basis,
        "device": device_name(engine.device),
        "precision": precision_of(engine),
    }


def _begun(engine: Any, config: TrainConfig, storage: Storage, what: Plan, *, step: int, figures: Any) -> None:
    """Note the start, and tell the driver how often the run was taken up, and what a speed is of what the devices could do."""
    if (times := note_start(storage, what.run, step)) > 1:
        figures.resumed.remote(times - 1)
    device, frozen = device_name(engine.device), config.lora is not None
    use = utilization(what.num_parameters, 1.0, device, config.num_workers, precision_of(engine), frozen=frozen)
    if use is not None:
        figures.used.remote(use)


def _fetch(storage: Storage, what: Plan) -> None:
    """Have on this node what the ranks open next: one may lack it, or the room for it, where the others do not."""
    for folder in (*(tokens["folder"] for tokens in what.tokens.values()), what.teacher):
        if folder:
            local_copy(storage, folder)


def _batches(engine: Any, config: TrainConfig, storage: Storage, what: Plan) -> Data:
    """Must come before a checkpoint is read: the model is still the one that preferences are measured against."""
    if what.terms is not None:
        return examples_of(engine, config, storage, what)
    share = Share(*replica(engine), config.sequences_per_worker, config.accumulation)
    match config.method:
        case CausalConfig():
            new = packed(config, storage, what.tokens["dataset"])
            if config.replay is None:
                return Batches(new, share, config.seed)
            old = packed(config, storage, what.tokens["replayed"])
            return Batches(Replay(new, old, config.replay.fraction), share, config.seed)
        case InstructConfig():
            examples = load_examples(storage, what.examples)
            bins = fill(examples.lengths, config.sequence_length)
            return Batches(Conversations(examples, bins, config.sequence_length), share, config.seed)
        case PreferenceConfig():
            examples = load_examples(storage, what.examples)
            scores = reference(engine, examples, storage, f"{what.run}/reference.npy", config.sequences_per_worker)
            return Batches(Pairs(examples, scores), share, config.seed)
        case GrpoConfig():
            return answers_of(engine, config, storage, what)


def _train(
    engine: Any,
    config: TrainConfig,
    batches: Data,
    record: Record,
    figures: Any,
    *,
    own: Heartbeat,
    teacher: Any,
    meter: Meter,
) -> tuple[Record, float]:
    """Steps `record.step` to the last, with checkpoints. Returns the record and the speed in tokens/s over all ranks.

    Raises:
        Left: a node is taken away; there is a checkpoint of the newest step.
    """
    done, tokens_per_s = record, 0.0
    phase = "training on answers" if isinstance(batches, Answers) else TRAINING  # ranks wait long while engines answer
    own.at(phase, record.step)
    kept = checkpoint.Reported(partial(own.during, "going back to a checkpoint"))
    waiting = partial(own.during, "writing a checkpoint")
    with Saver(config.checkpoint_asynchronously, waiting, figures.tell.remote) as saver:
        for done, tokens_per_s in train_steps(engine, config, batches, record, kept, teacher=teacher, meter=meter):
            saved_s, is_last = None, done.step == config.num_steps
            own.at(phase, done.step)
            leaves = not is_last and must_leave(engine.device)
            if leaves or (not is_last and done.step % config.checkpoint_every_steps == 0):
                saved_s = saver.save(engine, done, at_once=leaves)
            if engine.global_rank == 0:
                _tell(engine, batches, done, figures, tokens_per_s=tokens_per_s, checkpoint_s=saved_s)
            if leaves:
                raise Left(done.step)
    return done, tokens_per_s


def _tell(
    engine: Any, batches: Data, done: Record, figures: Any, *, tokens_per_s: float, checkpoint_s: float | None
) -> None:
    """The driver of the newest step."""
    told = batches.figures if isinstance(batches, Answers) else {}
    beside = {"rollbacks": len(done.incidents) or None, "checkpoint_s": checkpoint_s}
    # A private run's norm would tell of its data.
    norm = None if isinstance(batches, Examples) else gradient_norm(engine)
    values = figures_of(done.losses[-1], tokens_per_s, gradient_norm=norm, **beside)
    figures.update.remote(done.step, {**values, **told})
