"""The train stage: dataset + base model -> fine-tuned model, by Ray Train and DeepSpeed."""

from __future__ import annotations

import math
import time
from typing import Any

from cluster import artifacts
from cluster.artifacts import (
    Checkpoint,
    Dataset,
    FileEntry,
    Incident,
    LossPoint,
    PreferenceAccuracy,
    Privacy,
    Retention,
    Weights,
)
from cluster.errors import StageFailed
from cluster.lease import exclusive
from cluster.storage import Storage, remove_folder
from cluster.waiting import wait_for_node
from pipelines import progress
from pipelines.config import TrainConfig
from pipelines.training.capacity import check_capacity
from pipelines.training.fit import fit
from pipelines.training.importance import FOLDER
from pipelines.training.inputs import annotated, file_made_as, inputs_of, make_data
from pipelines.training.intact import check_files
from pipelines.training.ledger import ledger, measured_of
from pipelines.training.old import earlier, old_dataset
from pipelines.training.private_run import account, begin, origin, warn_unprotected
from pipelines.training.starts import starts
from pipelines.training.teacher import check_vocabulary
from pipelines.training.trackers import check_trackers
from pipelines.training.train_key import file_digest, train_key
from pipelines.training.weight_search import search
from pipelines.training.worker_plan import Plan


def train(
    config: TrainConfig, dataset: Dataset, base: Weights, storage: Storage, teacher: Weights | None = None
) -> Checkpoint:
    """Fine-tune `base` on the dataset's training documents. Call it with a Ray cluster joined (cluster.session.joined).

    With several weights of consolidation, or a retention that is asked for: as weight_search.py says. Finished
    work is found again by its key. An interrupted run (a killed worker or driver, Ctrl-C) goes on from its last checkpoint
    under `runs/train/<key>/`, which is removed once the model is exported.

    Args:
        teacher: with `distillation`: the model that it names.

    Raises:
        InputError, ConfigError: too little text, sequences longer than the model's positions, a tokenizer of another model, or
            damaged files: the model's, the documents', a checkpoint's.
        ResourceError: the pool, memory or disk cannot hold the run, or the data's privacy budget does not allow it; or another
            process trains the same model in this storage.
        StageFailed: the workers failed more than `max_failures` times, or the loss did more than `max_skipped_steps`; or
            less is retained of the old documents than was asked for.
        KeyboardInterrupt: Ctrl-C; the workers have ended, the checkpoints are kept.
    """
    if config.consolidation and config.consolidation.asked_percent is not None:
        old = old_dataset(config.consolidation.dataset, "consolidation", storage)
        inputs = {"dataset": dataset, "base": base, "consolidated": old} | ({"teacher": teacher} if teacher else {})
        return search(config, inputs, storage, lambda one: _train(one, dataset, base, storage, teacher))
    return _train(config, dataset, base, storage, teacher)


def _train(
    config: TrainConfig, dataset: Dataset, base: Weights, storage: Storage, teacher: Weights | None
) -> Checkpoint:
    assert (teacher is None) == (config.distillation is None)
    key = train_key(config, dataset, base, teacher)
    if made := artifacts.load(storage, Checkpoint, key):
        progress.say("train", f"found {made.location}: {_told(made.losses)}")
        return made
    with exclusive(storage, f"train-{key}"):  # recipes of other names may ask for the same model
        return artifacts.load(storage, Checkpoint, key) or _carried_out(
            config, key, dataset, base, storage, teacher=teacher
        )


def _carried_out(
    config: TrainConfig, key: str, dataset: Dataset, base: Weights, storage: Storage, *, teacher: Weights | None
) -> Checkpoint:
    """Of whoever has the run's folder for himself."""
    begun, run = time.monotonic(), f"runs/train/{key}"
    _check(config, base, storage, run, teacher)
    inputs = inputs_of(config, dataset, base, storage, teacher)
    data = make_data(config, inputs, storage)
    inputs |= file_made_as(config, storage)
    names = origin(config, dataset, file_digest(config), annotated(inputs, storage), inputs.get("preferences"))
    terms = begin(config, data, storage, run, names) if config.privacy else None
    if terms is None:
        warn_unprotected(storage, names)
    plan = Plan(
        config=config.model_dump(),
        storage=storage.location,
        base=base.folder,
        **data,
        run=run,
        export=f"artifacts/checkpoint/{key}/model",
        num_parameters=base.num_parameters,
        adapter=f"artifacts/checkpoint/{key}/adapter",
        importance=f"artifacts/checkpoint/{key}/{FOLDER}",
        earlier=earlier(inputs["carried"]) if "carried" in inputs else None,
        terms=None if terms is None else terms.model_dump(),
        teacher=teacher.folder if teacher else "",
    )
    outcome = fit(config, storage, plan)
    if refused := outcome.get("refused"):
        raise refused
    if why := outcome.get("diverged"):
        raise StageFailed(f"train: {why}; checkpoints are kept in {storage.uri}/{run}")
    privacy = None if terms is None else account(config, terms, storage, names)
    outcome |= {"key": key, "took_s": time.monotonic() - begun}
    made = artifacts.save(storage, _manifest(config, outcome, inputs, privacy))
    remove_folder(storage, run)
    _tell(made)
    return made


def _check(config: TrainConfig, base: Weights, storage: Storage, run: str, teacher: Weights | None) -> None:
    """What can be known before tokens are made: as `train` raises."""
    check_trackers(config.trackers)
    wait_for_node("train", config.pool, num_gpus=config.gpus_per_worker)
    if not starts(storage, run):  # else a checkpoint has other weights
        check_files(base, storage)
    if teacher is not None:
        check_files(teacher, storage)
        check_vocabulary(teacher, base, storage)
    check_capacity(config, base, storage, teacher)


def _tell(made: Checkpoint) -> None:
    """The user of what was made, and of what befell it."""
    for incident in made.incidents:
        where = f"step {incident.step}: {incident.reason}; back to {incident.back_to_step}"
        progress.say("train", f"{where}, its data left out")
    at = f", resumed at {', '.join(map(str, made.resumed_at_steps))}" if made.resumed_at_steps else ""
    progress.say("train", f"{_told(made.losses)} in {len(made.losses)} steps, {made.tokens_per_s:.0f} tokens/s{at}")
    if (kept := made.retention) is not None:
        before, after = math.exp(kept.before), math.exp(kept.after)
        of = f"perplexity {before:.2f} -> {after:.2f} in {kept.num_sequences} held-out sequences"
        progress.say("train", f"retains {kept.percent:.1f} % of the old documents' score ({of})")
    if made.preference:
        progress.say("train", made.preference.summary)


def _told(losses: tuple[LossPoint, ...]) -> str:
    """First and last loss, or reward where there is one, each the mean over a tenth of the run: a single step says little."""
    rewards = [point.reward for point in losses if point.reward is not None]
    values = rewards or [point.loss for point in losses]
    num = max(1, len(values) // 10)
    first, last = (sum(part) / len(part) for part in (values[:num], values[-num:]))
    return f"{'reward' if rewards else 'loss'} {first:.3f} -> {last:.3f}"


def _manifest(
    config: TrainConfig, outcome: dict[str, Any], inputs: dict[str, Any], privacy: Privacy | None
) -> Checkpoint:
    files = tuple(FileEntry(**entry) for entry in outcome["files"])
    return Checkpoint(
        key=outcome["key"],
        inputs={role: manifest.digest for role, manifest in inputs.items()},
        config=config.model_dump(mode="json"),
        files=files,
        took_s=round(outcome["took_s"], 1),
        num_parameters=inputs["base"].num_parameters,
        num_weight_bytes=sum(
            f.num_bytes for f in files if f.path.startswith("model/") and f.path.endswith(".safetensors")
        ),
        losses=tuple(LossPoint(**point) for point in outcome["losses"]),
        num_workers=config.num_workers,
        resumed_at_steps=tuple(outcome["starts"][1:]),
        tokens_per_s=outcome["tokens_per_s"],
        incidents=tuple(Incident(**incident) for incident in outcome["incidents"]),
        retention=None if outcome["retention"] is None else Retention(**outcome["retention"]),
        preference=PreferenceAccuracy(**told) if (told := outcome["preference"]) else None,
        ledger=ledger(
            num_parameters=inputs["base"].num_parameters,
            num_tokens=outcome["losses"][-1]["num_tokens"],
            tokens_per_s=outcome["tokens_per_s"],
            trained_s=outcome["trained_s"],
            measured=measured_of(outcome),
            device=outcome["device"],
            num_devices=config.num_workers,
            precision=outcome["precision"],
            frozen=config.lora is not None,
            watts_per_worker=config.watts_per_worker,
            privacy=privacy,
        ),
    )
