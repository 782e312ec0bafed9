"""The loss of a trained model on held-out documents: the same tokens in the same windows for models of all sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from cluster import pools
from cluster.artifacts import Dataset, Weights
from cluster.errors import InputError, UserError
from cluster.node_cache import local_copy
from cluster.storage import Storage, open_storage
from cluster.waiting import watched
from pipelines.config import TrainConfig

TOKENS_AT_ONCE = 2048
"""Their logits are what takes memory: 400 MB in float32 with a vocabulary of 49,000."""


class Windows(NamedTuple):
    """What a model is measured on."""

    context_length: int
    """Tokens of each."""
    num_heldout_tokens: int
    """In all of them, at most."""


class HeldoutLoss(NamedTuple):
    loss: float
    """Nats a token."""
    num_targets: int


def heldout_loss(
    config: TrainConfig, model: Weights, dataset: Dataset, asked: Windows, storage: Storage
) -> HeldoutLoss:
    """Mean negative log-likelihood of each token given those before it in its window, on one worker of the train pool.

    Documents are cut into windows of `asked.context_length` tokens, each on its own, in the order of the dataset's shards,
    until there are `asked.num_heldout_tokens`.

    Raises:
        InputError: there are no held-out documents.
    """
    import ray

    paths = [key for key in storage.list(f"{dataset.location}/heldout") if key.endswith(".parquet")]
    if not paths:
        where = f"{storage.uri}/{dataset.location}/heldout"
        raise InputError(where, "no documents to measure a loss on", "raise data.heldout_fraction")
    num_gpus = int(config.gpus_per_worker > 0)
    try:
        with watched("train", config.pool, num_gpus=num_gpus):
            task = ray.remote(_measure).options(
                num_cpus=config.cpus_per_worker, num_gpus=num_gpus, label_selector=pools.on_pool(config.pool)
            )
            found = task.remote(storage.location, model.folder, paths, asked, max(1, int(config.cpus_per_worker)))
            return HeldoutLoss(*ray.get(found))
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, UserError) else error) from None


def _measure(storage: str, model_folder: str, paths: list[str], asked: Windows, num_threads: int) -> tuple[float, int]:
    import torch
    from transformers import AutoModelForCausalLM

    from pipelines.training.losses import summed

    torch.set_num_threads(num_threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    opened = open_storage(storage)
    folder = local_copy(opened, model_folder)
    # In float32 on CPUs whatever they multiply well: small differences between losses are what is looked for.
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True).to(device).eval()
    total, num_targets = 0.0, 0
    with torch.no_grad():
        for rows in _batches(windows(_documents(opened, folder, paths), asked), asked.context_length):
            inputs, labels = (torch.tensor(part, device=device) for part in rows)
            total += float(summed(model(input_ids=inputs, use_cache=False).logits, labels))
            num_targets += int((labels[:, 1:] >= 0).sum())
    if not num_targets:
        raise InputError(f"{storage}: {paths[0]}", "no document of two tokens", "raise data.heldout_fraction")
    return total / num_targets, num_targets


def _documents(storage: Storage, folder: Any, paths: Sequence[str]) -> Iterator[list[int]]:
    """Each one's tokens, closed as in training."""
    from transformers import AutoTokenizer

    from pipelines.training.tokens import end_of_text, texts_of

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    end = end_of_text(tokenizer, folder)
    for path in sorted(paths):
        for texts in texts_of(storage, path):
            for tokens in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]:
                yield [*tokens, end]


def windows(documents: Iterator[list[int]], asked: Windows) -> Iterator[list[int]]:
    """Each of one document; single tokens are left out, which nothing stands before."""
    taken, length = 0, asked.context_length
    for tokens in documents:
        for start in range(0, len(tokens), length):
            window = tokens[start : start + length]
            if taken + len(window) > asked.num_heldout_tokens and taken:
                return
            taken += len(window)
            if len(window) > 1:
                yield window


def _batches(found: Iterator[list[int]], length: int) -> Iterator[tuple[list[list[int]], list[list[int]]]]:
    """(inputs, labels), filled up on the right, where no token looks."""
    rows: list[list[int]] = []
    at_once = max(1, TOKENS_AT_ONCE // length)
    for window in found:
        rows.append(window)
        if len(rows) == at_once:
            yield _filled(rows)
            rows = []
    if rows:
        yield _filled(rows)


def _filled(rows: list[list[int]]) -> tuple[list[list[int]], list[list[int]]]:
    from pipelines.training.batches import NO_TARGET

    width = max(map(len, rows))
    return (
        [row + [0] * (width - len(row)) for row in rows],
        [row + [NO_TARGET] * (width - len(row)) for row in rows],
    )
