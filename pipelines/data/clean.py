"""From raw documents to a dataset: the clean stage, on Ray Data.

    files -> [read, rewrite, filter, fingerprint] -> duplicates and split, at the driver -> [shards]

What stands in brackets runs on the pool; texts never come to the driver. Thin: a file is read by one worker, and the
tables between the two steps live in Ray's object store, which spills to disk.
"""

from __future__ import annotations

import errno
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cluster.artifacts import Batch, Dataset, FileEntry, Source, digest, load, save, stage_key
from cluster.errors import InputError, ResourceError, StageFailed
from cluster.session import on_pool
from cluster.storage import Storage
from pipelines.config import DataConfig
from pipelines.data.batch import TEXT_COLUMNS, BatchCleaner, schema
from pipelines.data.decide import EXCLUDED, HELDOUT, SPLITS, TRAIN, Decision, decide
from pipelines.data.filters import CHEAP_FILTERS
from pipelines.data.inventory import SourceFile, inventory
from pipelines.data.protect import key_id, read_key
from pipelines.data.rules import VERSION, compile_rules
from pipelines.data.shards import Row, plan, prepare_folder, write_shard
from pipelines.progress import bar, say

if TYPE_CHECKING:
    import pyarrow as pa
    import ray

    Blocks = Sequence[ray.ObjectRef[pa.Table]]

MAX_BLOCKS = 1_024
BLOCK_BYTES = 8_000_000
"""About so much input for a task, a second of work and more."""

FILTER_NAMES = (
    *(check.__name__ for check in CHEAP_FILTERS),
    "language",
    "stop_words",
    "exact_duplicates",
    "near_duplicates",
)


def clean(config: DataConfig, storage: Storage) -> Dataset:
    """Read, clean, filter and deduplicate the sources; Ray must be initialised.

    Returns:
        The dataset; the one that is already there when neither the input nor what decides over it has changed.

    Raises:
        ConfigError: a rule that cannot be applied.
        InputError: a source is missing or empty, or no document is kept (the excluded ones are on disk, with reasons).
        StageFailed: a file vanished while it was read.
        ResourceError: no space left for the shards.
    """
    began_at = time.monotonic()
    compile_rules(config.rules)  # a bad rule or key is told before anything is read
    read_key(config.protect)
    files = inventory(config.sources)
    key = stage_key("clean", recorded_config(config), {file.name: file.sha256 for file in files})
    if made := load(storage, Dataset, key):
        say("clean", f"already made: {_counts(made)} ({made.location})")
        return made
    say("clean", f"{len(files)} files, {sum(file.num_bytes for file in files) / 1e6:.1f} MB")
    with _told_apart(storage):
        blocks = _read_and_judge(files, config)
        dataset = _write(blocks, files, config, key, storage)
    dataset = dataset.model_copy(update={"took_s": round(time.monotonic() - began_at, 2)})
    _refuse_if_empty(dataset, storage)
    dataset = save(storage, dataset)
    _tell(dataset)
    return dataset


def recorded_config(config: DataConfig) -> dict[str, Any]:
    """What decides over the result: neither this machine's paths nor where the work runs.

    The names of the files, which begin with the last part of the source's path, are recorded with their hashes instead.
    """
    left_out: Any = {"pool": True, "sources": {"__all__": {"path"}}, "protect": {"key_file"}}
    dumped = config.model_dump(mode="json", exclude=left_out)
    return {**dumped, "rules_version": VERSION, "protect_key": key_id(read_key(config.protect))}


def rules_digest(config: DataConfig) -> str:
    """Of everything that decides what becomes of a document."""
    names = ("rules", "protect", "filters", "dedup", "max_document_bytes", "protect_key", "rules_version")
    return digest({name: recorded_config(config)[name] for name in names})


def _read_and_judge(
    files: Sequence[SourceFile], config: DataConfig, num_blocks: int | None = None
) -> list[ray.ObjectRef[pa.Table]]:
    """Tables of documents with their verdicts, in no particular order, where the workers left them."""
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # its plans and bars are not for those who run a recipe

    context = ray.data.DataContext.get_current().copy()
    context.execution_options.label_selector = on_pool(config.pool) or None
    context.enable_progress_bars = False
    with ray.data.DataContext.current(context), bar("clean", None, "documents") as progress:
        items = [{"file": index} for index in range(len(files))]
        dataset = ray.data.from_items(items, override_num_blocks=num_blocks or _num_blocks(files))
        cleaned = dataset.map_batches(BatchCleaner(tuple(files), config, read_key(config.protect)), batch_size=None)
        blocks: list[ray.ObjectRef[pa.Table]] = []
        read = 0
        for bundle in cleaned.iter_internal_ref_bundles():
            rows = bundle.num_rows() or 0
            blocks += bundle.block_refs if rows else ()
            read += rows
            progress.update(read)
    return blocks


def _num_blocks(files: Sequence[SourceFile]) -> int:
    """Of the read tasks: one for every BLOCK_BYTES. A worker starts in seconds, which small inputs pay for only once."""
    return min(max(sum(file.num_bytes for file in files) // BLOCK_BYTES, 1), len(files), MAX_BLOCKS)


@contextmanager
def _told_apart(storage: Storage) -> Iterator[None]:
    """What a worker failed for comes out as one message where a person can mend it; a defect keeps its traceback."""
    from ray.exceptions import RayError

    try:
        yield
    except (RayError, OSError) as error:
        cause = _root_cause(error)
        if isinstance(cause, StageFailed):
            raise StageFailed(str(cause)) from None
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(
                storage.uri, "no space left", "free some space and run the same command again"
            ) from None
        if isinstance(cause, PermissionError):
            raise ResourceError(
                storage.uri, "permission denied", "give the user of serinus write access there"
            ) from None
        raise


def _root_cause(error: BaseException) -> BaseException:
    """Ray wraps what a task raised, sometimes more than once."""
    inner = getattr(error, "cause", None) or error.__cause__
    return _root_cause(inner) if isinstance(inner, BaseException) and inner is not error else error


def _write(blocks: Blocks, files: Sequence[SourceFile], config: DataConfig, key: str, storage: Storage) -> Dataset:
    """Decide over all documents, write the shards, and return the manifest, not yet saved."""
    documents = _without_texts(blocks, config)
    _check_ids(documents)
    decisions = decide(documents, config)
    rows = _rows(documents, decisions)
    location = Dataset(key=key).location
    prepare_folder(storage, location)
    written = _write_shards(blocks, rows, config, storage, location)
    return _manifest(documents, decisions, written, files=files, config=config, key=key)


def _check_ids(documents: pa.Table) -> None:
    """Items of evaluation and lineage go by id: a repeated one would be found out only after training."""
    import pyarrow.compute as pc

    counted = pc.value_counts(documents["id"])
    repeated = [entry["values"].as_py() for entry in counted if entry["counts"].as_py() > 1]
    if repeated:
        raise InputError(
            "data.sources: id_field",
            f"{len(repeated)} ids stand on several documents, {repeated[0]!r} among them",
            "name a field whose values differ, or leave id_field out",
        )


def _without_texts(blocks: Blocks, config: DataConfig) -> pa.Table:
    """One row a document, in document order, with the block and the row in it where its texts lie."""
    import pyarrow as pa
    import ray

    if not blocks:
        return _strip(0, schema().empty_table())
    strip = ray.remote(_strip).options(label_selector=on_pool(config.pool))
    tables = ray.get([strip.remote(number, block) for number, block in enumerate(blocks)])
    return pa.concat_tables(tables).sort_by([("file", "ascending"), ("ordinal", "ascending")])


def _strip(number: int, block: pa.Table) -> pa.Table:
    import pyarrow as pa

    rows = len(block)
    block = block.append_column("block", pa.array([number] * rows, pa.int32()))
    return block.append_column("row", pa.array(range(rows), pa.int64())).drop_columns(list(TEXT_COLUMNS))


def _rows(documents: pa.Table, decisions: Sequence[Decision]) -> list[Row]:
    places = zip(documents["block"].to_pylist(), documents["row"].to_pylist(), decisions, strict=True)
    return [Row(*place) for place in places]


def _write_shards(
    blocks: Blocks, rows: Sequence[Row], config: DataConfig, storage: Storage, location: str
) -> list[tuple[FileEntry, Batch]]:
    import ray

    filesystem, folder = storage.filesystem(location)
    write = ray.remote(write_shard).options(label_selector=on_pool(config.pool))
    rules = rules_digest(config)
    shards = list(plan(rows, SPLITS, config.documents_per_shard))
    results = [write.remote(filesystem, folder, shard, rules, *(blocks[b] for b in shard.blocks)) for shard in shards]
    with bar("clean", len(results), "shards") as progress:
        waiting = results
        while waiting:
            _, waiting = ray.wait(waiting, num_returns=1)
            progress.update(len(results) - len(waiting))
    return ray.get(results)


def _manifest(
    documents: pa.Table,
    decisions: Sequence[Decision],
    written: Sequence[tuple[FileEntry, Batch]],
    *,
    files: Sequence[SourceFile],
    config: DataConfig,
    key: str,
) -> Dataset:
    splits = Counter(decision.split for decision in decisions)
    reasons = Counter(decision.reason for decision in decisions if decision.split == EXCLUDED)
    changed = Counter(name for names in documents["changed_by"].to_pylist() for name in names)
    lengths = zip(documents["num_characters"].to_pylist(), decisions, strict=True)
    dataset = Dataset(
        key=key,
        config=recorded_config(config),
        files=tuple(entry for entry, _ in written),
        batches=tuple(batch for _, batch in written),
        sources=tuple(Source(path=file.name, num_bytes=file.num_bytes, sha256=file.sha256) for file in files),
        rules=tuple(rule.name for rule in config.rules) + FILTER_NAMES,
        rules_digest=rules_digest(config),
        num_documents=len(documents),
        num_train=splits[TRAIN],
        num_heldout=splits[HELDOUT],
        num_excluded_by_reason=dict(sorted(reasons.items())),
        num_changed_by_rule={rule.name: changed[rule.name] for rule in config.rules},
        num_protected_by_kind=_protected(documents, decisions) if config.protect.actions else {},
        num_characters_in=sum(documents["num_characters_in"].to_pylist()),
        num_characters_kept=sum(length for length, decision in lengths if decision.split != EXCLUDED),
    )
    assert dataset.num_documents == dataset.num_kept + dataset.num_excluded
    assert dataset.num_documents == sum(batch.num_documents for batch in dataset.batches)
    return dataset


def _protected(documents: pa.Table, decisions: Sequence[Decision]) -> dict[str, int]:
    """Values that were masked or hashed in the kept documents."""
    rows = zip(documents["protected"].to_pylist(), decisions, strict=True)
    counts = Counter(span["kind"] for spans, decision in rows if decision.split != EXCLUDED for span in spans)
    return dict(sorted(counts.items()))


def _refuse_if_empty(dataset: Dataset, storage: Storage) -> None:
    if dataset.num_kept:
        return
    reasons = ", ".join(f"{reason}: {count}" for reason, count in _by_count(dataset))
    raise InputError(
        "data.sources",
        f"none of {dataset.num_documents} documents is kept ({reasons or 'nothing in the files'})",
        f"see {storage.uri}/{dataset.location}/excluded for each with its reason; "
        "loosen data.filters or correct data.sources",
    )


def _tell(dataset: Dataset) -> None:
    say("clean", f"{_counts(dataset)} in {dataset.took_s:.1f} s ({dataset.location})")
    for reason, count in _by_count(dataset):
        say("clean", f"  excluded as  {reason:<26} {count}")
    for rule, count in dataset.num_changed_by_rule.items():
        say("clean", f"  rewritten by {rule:<26} {count}")
    for kind, count in dataset.num_protected_by_kind.items():
        say("clean", f"  protected    {kind:<26} {count}")


def _counts(dataset: Dataset) -> str:
    kept = f"{dataset.num_kept} kept ({dataset.num_train} to train, {dataset.num_heldout} held out)"
    return f"{dataset.num_documents} documents: {kept}, {dataset.num_excluded} excluded"


def _by_count(dataset: Dataset) -> list[tuple[str, int]]:
    return sorted(dataset.num_excluded_by_reason.items(), key=lambda item: (-item[1], item[0]))
