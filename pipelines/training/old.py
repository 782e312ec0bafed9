"""What a run is told of what was learnt before: old documents, and the run before in a chain. On the driver."""

from __future__ import annotations

from typing import Any

from cluster import artifacts
from cluster.artifacts import Checkpoint, Dataset, ImportedModel, Weights
from cluster.errors import InputError
from cluster.storage import Storage
from pipelines.config import OnlineConfig, TrainConfig
from pipelines.progress import say
from pipelines.training.importance import FOLDER, num_files
from pipelines.training.tokens import TokenIndex, make_tokens

ONLINE = "train.consolidation.online.checkpoint"


def old_dataset(key: str, field: str, storage: Storage) -> Dataset:
    """
    Args:
        field: of `train` that names it, for people.

    Raises:
        InputError: there is none with that key.
    """
    dataset = artifacts.load(storage, Dataset, key)
    if dataset is None:
        found = f"there is no dataset {key} in {storage.uri}"
        raise InputError(f"train.{field}.dataset", found, "give the name of a folder under artifacts/dataset/ there")
    return dataset


def heldout_tokens(config: TrainConfig, inputs: dict[str, Any], tokenizer: str, storage: Storage) -> TokenIndex | None:
    """Those of the held-out old documents, where there are enough for a sequence: of the ones that consolidation is of, else
    of those replayed. Stages of a model (`parallel.pipeline`) cannot be asked for a whole model's answer."""
    old = inputs.get("consolidated") or inputs.get("replayed")
    if old is None or not old.num_heldout or config.parallel.pipeline > 1:
        return None
    index = make_tokens(old, inputs["base"].folder, tokenizer, storage, part="heldout")
    return index if index.num_tokens >= config.sequence_length else None


def carry(online: OnlineConfig, base: Weights, storage: Storage) -> Checkpoint:
    """The run before.

    Raises:
        InputError: there is none, nothing is kept of what mattered to it, or it is of another model.
    """
    found = artifacts.load(storage, Checkpoint, online.checkpoint)
    if found is None:
        why = f"there is no checkpoint {online.checkpoint} in {storage.uri}"
        raise InputError(ONLINE, why, "give the name of a folder under artifacts/checkpoint/ there")
    if num_files(found.files) == 0:
        why = (
            f"{found.location} was trained without consolidation, or by an earlier version: no {FOLDER}/ is kept there"
        )
        raise InputError(
            ONLINE, why, "give a run with train.consolidation; for the first of a chain leave `online` out"
        )
    if found.num_parameters != base.num_parameters:
        why = f"{found.location} has {found.num_parameters:,} parameters, the base model {base.num_parameters:,}"
        raise InputError(ONLINE, why, f"begin with the model that was made there: {storage.uri}/{found.folder}")
    if not _is_its_model(found, base):
        remedy = f"the chain goes on from {storage.uri}/{found.folder}"
        say("train", f"warning: {ONLINE}: the base model is not the one made in {found.location}; {remedy}")
    return found


def _is_its_model(before: Checkpoint, base: Weights) -> bool:
    weights = {file.sha256 for file in before.files if file.path.endswith(".safetensors")}
    sources = base.sources if isinstance(base, ImportedModel) else ()
    return any(source.sha256 in weights for source in sources)


def earlier(before: Checkpoint) -> dict[str, Any]:
    """Where its Fisher's diagonal lies, for a Plan."""
    return {"folder": f"{before.location}/{FOLDER}", "num_files": num_files(before.files)}
