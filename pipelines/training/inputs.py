"""What a run learns from: the artifacts that it is made of, and their texts as tokens, which every rank is told of by a Plan."""

from __future__ import annotations

from typing import Any

from cluster import artifacts
from cluster.artifacts import Annotations, Dataset, Preferences, Weights
from cluster.descent import made_as
from cluster.errors import InputError
from cluster.storage import Storage
from pipelines import progress
from pipelines.config import CausalConfig, FunctionReward, GrpoConfig, InstructConfig, PreferenceConfig, TrainConfig
from pipelines.training.examples import check_lengths, load_examples, make_examples
from pipelines.training.heldout import Parts, split
from pipelines.training.method_file import read_file
from pipelines.training.old import carry, heldout_tokens, old_dataset
from pipelines.training.prompts import check_prompts, load_prompts, make_prompts
from pipelines.training.rewards import check_function, read_sources
from pipelines.training.tokens import TokenIndex, make_tokens, tokenizer_digest
from pipelines.training.train_key import file_digest


def inputs_of(
    config: TrainConfig, dataset: Dataset, base: Weights, storage: Storage, teacher: Weights | None = None
) -> dict[str, Any]:
    """Role -> manifest of all that the model is made from."""
    asked = {"replayed": ("replay", config.replay), "consolidated": ("consolidation", config.consolidation)}
    old = {role: old_dataset(some.dataset, field, storage) for role, (field, some) in asked.items() if some is not None}
    online = config.consolidation.online if config.consolidation else None
    carried = {"carried": carry(online, base, storage)} if online else {}
    taught = {"teacher": teacher} if teacher else {}
    return {"dataset": dataset, "base": base, **old, **carried, **taught}


def file_made_as(config: TrainConfig, storage: Storage) -> dict[str, Any]:
    """What the method's file was made as, so that the lineage leads from its documents, or from users' votes, to the model."""
    if isinstance(config.method, CausalConfig):
        return {}
    file = file_digest(config)
    found = {"annotations": made_as(storage, Annotations, file), "preferences": made_as(storage, Preferences, file)}
    return {role: made for role, made in found.items() if made is not None}


def annotated(inputs: dict[str, Any], storage: Storage) -> Dataset | None:
    """The version whose documents the annotations among the inputs are of; by its key alone where it is not there any more."""
    if (annotations := inputs.get("annotations")) is None:
        return None
    return artifacts.load(storage, Dataset, annotations.dataset) or Dataset(key=annotations.dataset)


def make_data(config: TrainConfig, inputs: dict[str, Any], storage: Storage) -> dict[str, Any]:
    """Tokenise what is not yet; the fields of a Plan that say what to train on.

    Args:
        inputs: by `inputs_of`.
    """
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
