"""The train stage: dataset + base model -> fine-tuned model, by Ray Train and DeepSpeed."""

from __future__ import annotations

import math
import time
from hashlib import sha256
from typing import Any

from cluster import artifacts
from cluster.artifacts import (
    Annotations,
    Checkpoint,
    Dataset,
    FileEntry,
    Incident,
    LossPoint,
    PreferenceAccuracy,
    Preferences,
    Privacy,
    Retention,
    Weights,
)
from cluster.descent import made_as
from cluster.errors import InputError, StageFailed
from cluster.storage import Storage, remove_folder
from cluster.waiting import wait_for_node
from pipelines import progress
from pipelines.config import CausalConfig, FunctionReward, GrpoConfig, InstructConfig, PreferenceConfig, TrainConfig
from pipelines.training.capacity import check_capacity
from pipelines.training.examples import check_lengths, load_examples, make_examples, read_file
from pipelines.training.fit import fit
from pipelines.training.heldout import Parts, split
from pipelines.training.importance import FOLDER
from pipelines.training.intact import check_files
from pipelines.training.ledger import ledger, measured_of
from pipelines.training.old import carry, earlier, heldout_tokens, old_dataset
from pipelines.training.private_run import account, begin, origin, warn_unprotected
from pipelines.training.prompts import check_prompts, load_prompts, make_prompts
from pipelines.training.rewards import check_function, read_sources, recorded
from pipelines.training.starts import starts
from pipelines.training.teacher import check_vocabulary
from pipelines.training.tokens import TokenIndex, make_tokens, tokenizer_digest
from pipelines.training.trackers import check_trackers
from pipelines.training.weight_search import search
from pipelines.training.worker_plan import Plan

HOW = {
    "pool",
    "cpus_per_worker",
    "checkpoint_every_steps",
    "checkpoint_asynchronously",
    "keep_checkpoints",
    "max_failures",
    "hang_timeout_s",
    "watts_per_worker",
    "trackers",
}
"""Fields that change how a run is carried out, not what it makes: they may change before an interrupted run goes on."""

LAYOUT = {
    "num_workers",
    "sequences_per_worker",
    "gradient_accumulation",
    "sequences_per_step",
    "gradient_checkpointing",
    "parallel",
}
"""Fields that say which worker computes what. What is made differs by rounding alone as long as a step takes the same
number of sequences, so that they may change as well; so may all of `zero` but `extra`, which can change anything."""


def train_key(config: TrainConfig, dataset: Dataset, base: Weights, teacher: Weights | None = None) -> str:
    """The key of the stage's result; with the same one an interrupted run is taken up again."""
    asked = config.model_dump(mode="json", exclude={*HOW, *LAYOUT, "zero"})
    if not isinstance(config.method, CausalConfig):
        asked["method"]["path"] = _file_digest(config)
    if isinstance(config.method, GrpoConfig):
        del asked["method"]["rollouts"]  # how, not what
        asked["method"]["rewards"] = recorded(config.method)
    if isinstance(config.method, PreferenceConfig) and not config.method.heldout_percent:
        del asked["method"]["heldout_percent"], asked["method"]["heldout_seed"]  # as before there were such fields
    for name in ("lora", "privacy", "quantization_aware", "distillation"):
        if asked[name] is None:
            del asked[name]  # what was made before there was such a field keeps its key
    if config.distillation:
        del asked["distillation"]["teacher"]  # an input
    if config.quantization_aware:
        asked["quantization_aware"] = config.quantization_aware.settings
    if held := asked["consolidation"]:
        del held["min_retention_percent"]  # it says what is taken, not what is made
        if held["online"] is None:
            del held["online"]
    if config.privacy:
        del asked["privacy"]["budget"]  # a run may be allowed more and be the same run
    asked |= {"sequences_per_step": config.total_sequences, "zero.extra": config.zero.extra}
    learnt_from = {"teacher": teacher.digest} if teacher else {}
    return artifacts.stage_key("train", asked, {"dataset": dataset.digest, "base": base.digest, **learnt_from})


def _file_digest(config: TrainConfig) -> str:
    """Of the method's file; empty where it has none."""
    return "" if isinstance(config.method, CausalConfig) else sha256(read_file(config.method.path)).hexdigest()


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
        ResourceError: the pool, memory or disk cannot hold the run, or the data's privacy budget does not allow it.
        StageFailed: the workers failed more than `max_failures` times, or the loss did more than `max_skipped_steps`; or
            less is retained of the old documents than was asked for.
        KeyboardInterrupt: Ctrl-C; the workers have ended, the checkpoints are kept.
    """
    if config.consolidation and config.consolidation.asked_percent is not None:
        old = old_dataset(config.consolidation.dataset, storage)
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
    begun = time.monotonic()
    check_trackers(config.trackers)
    wait_for_node("train", config.pool, num_gpus=config.gpus_per_worker)
    run = f"runs/train/{key}"
    if not starts(storage, run):  # else a checkpoint has other weights
        check_files(base, storage)
    if teacher is not None:
        check_files(teacher, storage)
        check_vocabulary(teacher, base, storage)
    check_capacity(config, base, storage, teacher)
    inputs = _inputs(config, dataset, base, storage) | ({"teacher": teacher} if teacher else {})
    data = _data(config, inputs, storage)
    inputs |= _made_as(config, storage)
    names = origin(config, dataset, _file_digest(config), _annotated(inputs, storage), inputs.get("preferences"))
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
    made = artifacts.save(
        storage, _manifest(config, outcome | {"key": key, "took_s": time.monotonic() - begun}, inputs, privacy)
    )
    remove_folder(storage, run)
    for incident in made.incidents:
        progress.say(
            "train", f"step {incident.step}: {incident.reason}; back to {incident.back_to_step}, its data left out"
        )
    at = f", resumed at {', '.join(map(str, made.resumed_at_steps))}" if made.resumed_at_steps else ""
    progress.say("train", f"{_told(made.losses)} in {len(made.losses)} steps, {made.tokens_per_s:.0f} tokens/s{at}")
    if (kept := made.retention) is not None:
        before, after = math.exp(kept.before), math.exp(kept.after)
        of = f"perplexity {before:.2f} -> {after:.2f} in {kept.num_sequences} held-out sequences"
        progress.say("train", f"retains {kept.percent:.1f} % of the old documents' score ({of})")
    if made.preference:
        progress.say("train", made.preference.summary)
    return made


def _told(losses: tuple[LossPoint, ...]) -> str:
    """First and last loss, or reward where there is one, each the mean over a tenth of the run: a single step says little."""
    rewards = [point.reward for point in losses if point.reward is not None]
    values = rewards or [point.loss for point in losses]
    num = max(1, len(values) // 10)
    first, last = (sum(part) / len(part) for part in (values[:num], values[-num:]))
    return f"{'reward' if rewards else 'loss'} {first:.3f} -> {last:.3f}"


def _inputs(config: TrainConfig, dataset: Dataset, base: Weights, storage: Storage) -> dict[str, Any]:
    """Role -> manifest of all that the model is made from."""
    asked = {"replayed": config.replay, "consolidated": config.consolidation}
    old = {role: old_dataset(some.dataset, storage) for role, some in asked.items() if some is not None}
    online = config.consolidation.online if config.consolidation else None
    carried = {"carried": carry(online, base, storage)} if online else {}
    return {"dataset": dataset, "base": base, **old, **carried}


def _made_as(config: TrainConfig, storage: Storage) -> dict[str, Any]:
    """What the method's file was made as, so that the lineage leads from its documents, or from users' votes, to the model."""
    if isinstance(config.method, CausalConfig):
        return {}
    file = _file_digest(config)
    found = {"annotations": made_as(storage, Annotations, file), "preferences": made_as(storage, Preferences, file)}
    return {role: made for role, made in found.items() if made is not None}


def _annotated(inputs: dict[str, Any], storage: Storage) -> Dataset | None:
    """The version whose documents the annotations among the inputs are of; by its key alone where it is not there any more."""
    if (annotations := inputs.get("annotations")) is None:
        return None
    return artifacts.load(storage, Dataset, annotations.dataset) or Dataset(key=annotations.dataset)


def _data(config: TrainConfig, inputs: dict[str, Any], storage: Storage) -> dict[str, Any]:
    """The fields of a Plan that say what to train on."""
    base, method = inputs["base"], config.method
    tokenizer = tokenizer_digest({file.path: file.sha256 for file in base.files})
    roles, files = set(inputs) - {"base", "carried", "teacher"}, dict[str, Any](examples="")
    if isinstance(method, GrpoConfig):
        roles, files = roles - {"dataset"}, _prompts(config, method, base, tokenizer, storage)
    elif not isinstance(method, CausalConfig):
        roles, files = roles - {"dataset"}, _files(config, method, base, tokenizer, storage)
    found = {role: _tokens(config, inputs[role], base, tokenizer, storage) for role in sorted(roles)}
    if held := heldout_tokens(config, inputs, tokenizer, storage):
        found["held"] = held
    tokens = {role: {**index.model_dump(), "folder": index.folder} for role, index in found.items()}
    return {"tokens": tokens, **files}


def _files(
    config: TrainConfig, method: InstructConfig | PreferenceConfig, base: Weights, tokenizer: str, storage: Storage
) -> dict[str, Any]:
    """Storage keys of the method's file, tokenised: `examples` to train on, and `heldout`."""
    content = read_file(method.path)
    parts = split(content, method) if isinstance(method, PreferenceConfig) else Parts(content, b"")
    contents = {"examples": parts.train} | ({"heldout": parts.heldout} if parts.heldout else {})
    keys, rows = dict[str, Any](), 2 if method.kind == "dpo" else 1
    for name, part in contents.items():
        keys[name] = make_examples(method, part, base.folder, tokenizer, storage)
        examples = load_examples(storage, keys[name])
        what = "held out of" if name == "heldout" else "to learn from in"
        check_lengths(
            examples, rows, config.sequence_length, f"the lines {what} {method.path}" if parts.heldout else method.path
        )
        num = len(examples.ends) // rows
        progress.say(
            "train",
            f"{num:,} line(s) {what} {method.path}: {int(examples.targets.sum()):,} of {len(examples.tokens):,} tokens",
        )
    return keys


def _prompts(
    config: TrainConfig, method: GrpoConfig, base: Weights, tokenizer: str, storage: Storage
) -> dict[str, Any]:
    """The storage key of the prompts, and the rewards' functions."""
    sources = read_sources(method)
    for reward in method.rewards:
        if isinstance(reward, FunctionReward):
            check_function(reward, sources[reward.name])
    key = make_prompts(method, read_file(method.path), base.folder, tokenizer, storage)
    prompts = load_prompts(storage, key)
    check_prompts(prompts, method, config.sequence_length)
    progress.say(
        "train",
        f"{len(prompts.rows):,} prompts in {method.path}, {sum(prompts.lengths):,} tokens;"
        f" {config.total_sequences // method.num_generations} a step, with {method.num_generations} answers to each",
    )
    return {"examples": key, "rewards": sources}


def _tokens(config: TrainConfig, dataset: Dataset, base: Weights, tokenizer: str, storage: Storage) -> TokenIndex:
    index = make_tokens(dataset, base.folder, tokenizer, storage)
    if index.num_tokens < config.sequence_length:
        raise InputError(
            f"{storage.uri}/{dataset.location}/train",
            f"{index.num_tokens} tokens, fewer than one sequence of {config.sequence_length}",
            "give more text, exclude less of it, or lower train.sequence_length",
        )
    progress.say("train", f"{index.num_tokens:,} tokens in {sum(s.num_documents for s in index.shards):,} documents")
    return index


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
