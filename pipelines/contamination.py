"""Measure contamination: how many of the evaluation items stand in what the model is about to learn from.

The pool looks through the training shards, a task each; what is sought is a table of hashes that lies once in Ray's object store.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import chain
from typing import Any, NamedTuple

from cluster import artifacts
from cluster.artifacts import Contamination, Dataset, FileEntry, TaskContamination
from cluster.storage import Storage, sha256_of, staged_folder
from pipelines.config import CausalConfig, LifecycleConfig
from pipelines.data.compare import Pool
from pipelines.data.contamination import (
    MIN_WORDS,
    MOST,
    NGRAMS,
    Asked,
    Overlap,
    Seen,
    of_shard,
    of_texts,
    overlaps,
    repaired,
    sought,
    together,
)
from pipelines.data.decide import TRAIN
from pipelines.data.decontaminate import texts_of
from pipelines.data.repeats import Workers
from pipelines.evaluation.evaluate import read_documents, settings_of
from pipelines.evaluation.items import Item
from pipelines.evaluation.tasks import bare_items, takes_documents
from pipelines.progress import say
from pipelines.task_config import UNMEASURED
from pipelines.training.method_file import objects, read_file

VERSION = 1
"""Raise it when the same items and documents lead to other figures."""


class Learnt(NamedTuple):
    """What the model learns from."""

    datasets: dict[str, Dataset]
    """By their role: `dataset`, and `replayed`."""
    kind: str = "causal"
    path: str = ""
    """The method's file, where it learns from that in the place of the dataset."""

    @property
    def shards(self) -> list[str]:
        """Storage keys."""
        return [
            f"{dataset.location}/{batch.path}"
            for dataset in self.datasets.values()
            for batch in dataset.batches
            if batch.path.startswith(f"{TRAIN}/")
        ]


def measure(
    recipe: LifecycleConfig, dataset: Dataset, storage: Storage, workers: Workers | None = None
) -> Contamination:
    """Look for the items of the recipe's tasks in the documents that the model learns from.

    Args:
        workers: None: those of the pool that cleans; Ray must be initialised.

    Raises:
        InputError: a task's file, the method's file or the dataset of the replay cannot be used.
    """
    began = time.monotonic()
    learnt = learnt_from(recipe, dataset, storage)
    inputs = {"dataset": dataset.digest} | {role: one.digest for role, one in learnt.datasets.items()}
    settings = _settings(recipe, learnt)
    key = artifacts.stage_key("contamination", settings, inputs)
    if (found := artifacts.load(storage, Contamination, key)) is not None:
        say("evaluate", f"already measured: {found.summary}")
        return found
    items = _items(recipe, dataset, storage)
    measured, num_documents = _look(learnt, items, storage, workers or Pool(recipe.data, "evaluate"))
    made = Contamination(
        key=key, inputs=inputs, config=settings, num_documents=num_documents, tasks=tuple(_tasks(items, measured))
    )
    written = _write(storage, made, [_row(*one) for one in zip(items, measured, strict=True)])
    made = made.replace(files=(written,), took_s=round(time.monotonic() - began, 2))
    say("evaluate", f"{made.summary} ({made.took_s:.1f} s)")
    return artifacts.save(storage, made)


def learnt_from(recipe: LifecycleConfig, dataset: Dataset, storage: Storage) -> Learnt:
    """Raises InputError: there is no dataset to replay."""
    from pipelines.training.old import old_dataset

    method, replay = recipe.train.method, recipe.train.replay
    old = {"replayed": old_dataset(replay.dataset, "replay", storage)} if replay else {}
    if isinstance(method, CausalConfig):
        return Learnt({"dataset": dataset, **old})
    return Learnt(old, method.kind, method.path)


def _settings(recipe: LifecycleConfig, learnt: Learnt) -> dict[str, Any]:
    """What decides the result."""
    asked = settings_of(recipe.evaluate)
    return {
        **{name: asked[name] for name in ("tasks", "seed", "items_version")},
        "learnt_from": [*learnt.datasets],
        "file": sha256(read_file(learnt.path)).hexdigest() if learnt.path else "",
        "ngrams": list(NGRAMS),
        "min_words": MIN_WORDS,
        "most": MOST,
        "version": VERSION,
    }


def _items(recipe: LifecycleConfig, dataset: Dataset, storage: Storage) -> list[Asked]:
    tasks = [task for task in recipe.evaluate.tasks if task.kind not in UNMEASURED]
    documents = read_documents(storage, dataset) if any(map(takes_documents, tasks)) else []
    return [asked(item) for task in tasks for item in bare_items(task, documents, recipe.evaluate.seed)]


def asked(item: Item) -> Asked:
    """What of an item is looked for. Of likelihoods of whole texts the text is the prompt."""
    right = item.answers[item.gold] if item.answers else ""
    return Asked(item.task, item.id, item.prompt or right, right if item.prompt else "")


def _look(learnt: Learnt, items: Sequence[Asked], storage: Storage, workers: Workers) -> tuple[list[Overlap], int]:
    """What is found of each item, and in how many documents it was looked for."""
    wanted, prompts, answers = sought(items)
    tables = [one.table for one in wanted]
    parts, num_documents = [], sum(one.num_train for one in learnt.datasets.values())
    if learnt.path:
        lines = list(objects(learnt.kind, learnt.path, read_file(learnt.path)))
        parts.append(_of_lines(lines, tables))
        num_documents += len(lines)
    lying = workers.put(tables) if learnt.shards else None
    calls = [(storage.location, key, lying) for key in learnt.shards]
    found = together(tables, chain(parts, workers.each(of_shard, calls, "shards")))
    return list(overlaps(wanted, found, prompts, answers)), num_documents


def _of_lines(lines: Sequence[tuple[str, Any]], tables: Sequence[Any]) -> list[Seen]:
    """In the method's file, which the driver reads for training as well: a line is a document."""
    import pyarrow as pa

    texts = pa.array(["\n".join(texts_of(value)) for _, value in lines], pa.large_string())
    return of_texts(repaired(texts), pa.array([where.rpartition("/")[2] for where, _ in lines]), tables)


def _tasks(items: Sequence[Asked], found: Sequence[Overlap]) -> Iterator[TaskContamination]:
    for task in dict.fromkeys(item.task for item in items):
        of = [one for item, one in zip(items, found, strict=True) if item.task == task]
        yield TaskContamination(
            task=task,
            num_items=len(of),
            num_measured=sum(one.has_most is not None for one in of),
            num_by_rule={
                "most_8_grams": sum(bool(one.has_most) for one in of),
                "any_13_gram": sum(bool(one.has_any) for one in of),
            },
        )


def _row(item: Asked, found: Overlap) -> dict[str, Any]:
    eight, thirteen = found.shares
    return {
        "task": item.task,
        "id": item.id,
        "num_prompt_words": found.num_prompt_words,
        "num_answer_words": found.num_answer_words,
        "prompt_8": eight.prompt,
        "answer_8": eight.answer,
        "prompt_13": thirteen.prompt,
        "answer_13": thirteen.answer,
        "most_8_grams": found.has_most,
        "any_13_gram": found.has_any,
        "document": found.document,
    }


def _write(storage: Storage, made: Contamination, rows: Sequence[dict[str, Any]]) -> FileEntry:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {
        **dict.fromkeys(("task", "id", "document"), pa.string()),
        **dict.fromkeys(("num_prompt_words", "num_answer_words"), pa.int64()),
        **dict.fromkeys(("prompt_8", "answer_8", "prompt_13", "answer_13"), pa.float64()),  # 0 to 1; null: too short
        **dict.fromkeys(("most_8_grams", "any_13_gram"), pa.bool_()),
    }
    with staged_folder(storage, made.location) as folder:
        path = folder / "items.parquet"
        pq.write_table(pa.Table.from_pylist(list(rows), schema=pa.schema(kinds)), path, compression="zstd")
        return FileEntry(path=path.name, num_bytes=path.stat().st_size, sha256=sha256_of(path))
