"""Datasets made as the clean stage makes them, in this process without Ray, and models made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import starmap
from pathlib import Path
from typing import Any

import pyarrow as pa

from cluster import artifacts
from cluster.artifacts import Checkpoint, Dataset, EvalReport, GateReport, QuantizedModel, Revision
from cluster.storage import LocalStorage, Storage
from pipelines.config import DataConfig, FilterConfig, SourceConfig
from pipelines.data import clean as stage
from pipelines.data.blocks import Blocks, remove_blocks
from pipelines.data.compare import gathered, linked, part
from pipelines.data.record import save_both
from pipelines.data.settle import Settled, outcome, settle
from pipelines.data.shards import write_shard
from pipelines.data.work import Work, prepare
from pipelines.publish import publish_candidate

FILTERS = FilterConfig(min_words=5, min_stop_words=0)

WORDS = "the canary went down into the mine and sang of {} while miners counted {} lamps in gallery {}"

TEXTS = [WORDS.format(*(f"{kind}{i}" for kind in ("coal", "brass", "east"))) + f" at {i} o'clock" for i in range(12)]


def config(folder: Path | str, **changes: Any) -> DataConfig:
    """For the documents in `folder`: shards of three, a quarter held out."""
    settings = {"filters": FILTERS, "documents_per_shard": 3, "heldout_fraction": 0.25, **changes}
    return DataConfig(sources=(SourceConfig(path=str(folder)),), **settings)


def make(storage: LocalStorage, settings: DataConfig, num_workers: int = 1) -> Dataset:
    """As `clean`, without a cluster: what the workers read, one after the other and the last one first."""
    work = prepare(settings, storage)
    if found := artifacts.load(storage, Dataset, work.key):
        return found
    judge = stage.judge_of(work, storage)
    numbers = [stretch.number for stretch in judge.stretches]
    shares = [numbers[i::num_workers] for i in reversed(range(num_workers))]
    tables = [table for share in shares for table in judge({"stretch": share})]
    settled = settled_here(tables, judge.blocks, work, storage)
    target = stage.target_of(work, storage)
    written = [write_shard(target, shard, judge.blocks) for shard in settled.shards]
    dataset = save_both(storage, outcome(work, settled, written), [shard.record for shard in written])
    remove_blocks(storage, dataset.key)
    return dataset


class Here:
    """Workers that are this process."""

    def put(self, value: Any) -> Any:
        return value

    def each(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], unit: str) -> Iterable[Any]:
        return starmap(function, calls)


def settled_here(tables: Sequence[pa.Table], blocks: Blocks, work: Work, storage: Storage) -> Settled:
    parts = [part(table) for table in tables]
    found = gathered([each.rows for each in parts], parts)
    links = linked(found, work, storage, Here())
    return settle(found, links, blocks=blocks, work=work, storage=storage, workers=Here())


def train(storage: LocalStorage, dataset: Dataset, name: str = "m") -> tuple[Checkpoint, QuantizedModel, Revision]:
    """Manifests as training, quantizing and publishing leave them; the revision becomes the candidate."""
    digest = dataset.digest[:8]
    trained = artifacts.save(
        storage, Checkpoint(key=f"c{digest}", inputs={"dataset": dataset.digest, "base": "b" * 64})
    )
    both = {"model": trained.digest, "dataset": dataset.digest}
    quantized = artifacts.save(storage, QuantizedModel(key=f"q{digest}", inputs=both, scheme="W8A8"))
    artifacts.save(storage, EvalReport(key=f"e{digest}", inputs=both, model=trained.digest))
    gate = artifacts.save(storage, GateReport(key=f"g{digest}", outcome="passed", passed=True))
    return trained, quantized, publish_candidate(name, quantized, gate, storage)
