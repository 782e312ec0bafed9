"""From raw documents to a dataset: the clean stage, on Ray Data or, for small inputs, in one of Ray's tasks.

    files -> [read, rewrite, filter, fingerprint] -> duplicates and split, at the driver -> [shards]

What stands in brackets runs on the pool. Texts go from one to the other through the storage (pipelines/data/blocks.py); the
driver and Ray's object store have a row for each document without them. A run that was interrupted goes on from the blocks that
are finished. Where all files together are small, as stored, one task reads and judges them, with the same result and without the
start of Ray Data. Large files of JSON lines and of Parquet are read in parts, by several workers. Thin: any other file (packed,
an archive) is read by one worker.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cluster.artifacts import Dataset, FileEntry, Record, load
from cluster.errors import InputError, ResourceError, StageFailed, UserError
from cluster.session import cpus_of_a_core, on_pool
from cluster.storage import Storage, filesystem_to_write
from cluster.waiting import wait_for_node
from pipelines.config import DataConfig
from pipelines.data.batch import schema
from pipelines.data.blocks import (
    PLACE,
    BlockGone,
    Blocks,
    Judge,
    blocks_of,
    num_files,
    num_finished,
    remove_blocks,
    stretches,
    told,
)
from pipelines.data.claim import claim, release
from pipelines.data.decide import decide, forgetting
from pipelines.data.dedup import Links
from pipelines.data.duplicates import joined, link, names_of, shards_of, tasks
from pipelines.data.outcome import manifest
from pipelines.data.protect import read_key
from pipelines.data.record import save_both
from pipelines.data.recorded import rules_digest
from pipelines.data.rules import compile_rules
from pipelines.data.shards import (
    Plan,
    Target,
    Written,
    plan,
    prepare_folder,
    remove_leftovers,
    write_shard,
)
from pipelines.data.work import Work, check_models, cleaner_of, prepare
from pipelines.progress import bar, say

if TYPE_CHECKING:
    import pyarrow as pa
    import ray

    Tables = Sequence[ray.ObjectRef[pa.Table]]

BLOCK_BYTES = 8_000_000
"""So much input for a task at least, a second of work. What is not more altogether is small."""


def clean(config: DataConfig, storage: Storage) -> Dataset:
    """Read, clean, filter and deduplicate the sources; Ray must be initialised.

    Returns:
        The dataset; the one that is already there when neither the input nor what decides over it has changed.

    Raises:
        ConfigError: a rule that cannot be applied.
        InputError: a source is missing or empty, or no document is kept (the excluded ones are on disk, with reasons).
        StageFailed: a file vanished while it was read.
        ResourceError: no space left for the shards, or no node to work on.
    """
    began_at = time.monotonic()
    compile_rules(config.rules)  # a bad rule, key or model is told before anything is read
    read_key(config.protect)
    check_models(config.filters)
    work = prepare(config, storage)
    if made := load(storage, Dataset, work.key):
        say("clean", f"already made: {_counts(made)} ({made.location})")
        if num_files(storage, work.key):  # of a run that was killed at its very end
            finish(storage, made)
        return made
    say("clean", f"{len(work.files)} files, {sum(file.num_bytes for file in work.files) / 1e6:.1f} MB")
    judge = judge_of(work, storage)
    wait_for_node("clean", config.pool, num_tasks=len(judge.stretches))
    try:
        with _told_apart(storage):
            dataset, record = _write(_read_and_judge(judge, work), judge.blocks, work, storage)
        _refuse_if_empty(dataset, storage)
    except BlockGone:
        if (made := load(storage, Dataset, work.key)) is None:
            raise
        return _made_meanwhile(made, storage)
    except InputError:  # another recipe or input is asked for: nobody goes on with these blocks
        remove_blocks(storage, work.key)
        release(storage, work.key)
        raise
    dataset = dataset.model_copy(update={"took_s": round(time.monotonic() - began_at, 2)})
    return _committed(dataset, record, storage)


def judge_of(work: Work, storage: Storage) -> Judge:
    """What the workers do, and where to. Says what is done already."""
    cut = stretches(work.files, BLOCK_BYTES)
    blocks = blocks_of(storage, work.key, cut)
    if done := num_finished(storage, work.key, blocks):
        say("clean", f"going on: {done} of {len(cut)} blocks are there, of an interrupted run or one that is at work")
    return Judge(cleaner_of(work), tuple(cut), blocks)


def _made_meanwhile(made: Dataset, storage: Storage) -> Dataset:
    say("clean", f"another run has made the same version meanwhile: {_counts(made)} ({made.location})")
    finish(storage, made)
    return made


def _committed(dataset: Dataset, record: Sequence[FileEntry], storage: Storage) -> Dataset:
    made = save_both(storage, dataset, record)
    if made.made_at != dataset.made_at:
        return _made_meanwhile(made, storage)
    finish(storage, made)
    _tell(made)
    return made


def finish(storage: Storage, made: Dataset) -> None:
    """Of a version that is whole: nothing lies about, and nobody is at work."""
    remove_leftovers(storage, made)
    if record := load(storage, Record, made.key):
        remove_leftovers(storage, record)
    remove_blocks(storage, made.key)
    release(storage, made.key)


def _read_and_judge(judge: Judge, work: Work) -> Tables:
    """What is told of the documents, in tables in no particular order, where the workers left them."""
    is_small = sum(stretch.num_bytes for stretch in judge.stretches) <= BLOCK_BYTES
    return (_in_one_task if is_small else _with_ray_data)(judge, work.config)


def _in_one_task(judge: Judge, config: DataConfig) -> Tables:
    import ray

    task = ray.remote(judged).options(num_cpus=1, num_returns="streaming", label_selector=on_pool(config.pool))
    with bar("clean", None, "documents") as progress:
        *tables, total = task.remote(judge)
        num_rows = ray.get(total)  # raises what the task did
        if not isinstance(num_rows, int):
            raise StageFailed("clean: the worker ended before it had read all: run the same command again")
        progress.update(num_rows)
    return tables


def judged(judge: Judge) -> Iterator[pa.Table | int]:
    """The tables, and at last the number of their rows."""
    num_rows = 0
    for table in judge({"stretch": [stretch.number for stretch in judge.stretches]}):
        num_rows += len(table)
        yield table
    yield num_rows


def _with_ray_data(judge: Judge, config: DataConfig) -> Tables:
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # its plans and bars are not for those who run a recipe

    context = ray.data.DataContext.get_current().copy()
    context.execution_options.label_selector = on_pool(config.pool) or None
    context.enable_progress_bars = False
    with ray.data.DataContext.current(context), bar("clean", None, "documents") as progress:
        largest_first = sorted(judge.stretches, key=lambda stretch: -stretch.num_bytes)
        items = [{"stretch": stretch.number} for stretch in largest_first]
        dataset = ray.data.from_items(items, override_num_blocks=len(items))
        cleaned = dataset.map_batches(judge, batch_size=None, num_cpus=cpus_of_a_core())
        tables: list[ray.ObjectRef[pa.Table]] = []
        read = 0
        for bundle in cleaned.iter_internal_ref_bundles():
            rows = bundle.num_rows() or 0
            tables += bundle.block_refs if rows else ()
            read += rows
            progress.update(read)
    return tables


@contextmanager
def _told_apart(storage: Storage) -> Iterator[None]:
    """What a worker failed for comes out as one message where a person can mend it; a defect keeps its traceback."""
    from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, WorkerCrashedError

    try:
        yield
    except (RayError, OSError) as error:
        cause = _root_cause(error)
        if isinstance(cause, NodeDiedError | OutOfMemoryError | WorkerCrashedError):
            found = (
                f"clean: a worker died time and again ({type(cause).__name__}): its machine was lost or memory ran out"
            )
            raise StageFailed(f"{found}; run the same command again, with larger nodes if it recurs") from None
        if isinstance(cause, StageFailed):
            raise type(cause)(str(cause)) from None
        if isinstance(cause, UserError):  # a file of rules that runs here may lack a module there
            raise type(cause)(cause.where, cause.found, cause.remedy) from None
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            where = cause.filename if storage.uri.startswith("s3://") and cause.filename else storage.uri
            raise ResourceError(where, "no space left", "free some space and run the same command again") from None
        if isinstance(cause, PermissionError):
            raise ResourceError(
                storage.uri, "permission denied", "give the user of serinus write access there"
            ) from None
        raise


def _root_cause(error: BaseException) -> BaseException:
    """Ray wraps what a task raised, sometimes more than once."""
    inner = getattr(error, "cause", None) or error.__cause__
    return _root_cause(inner) if isinstance(inner, BaseException) and inner is not error else error


def _write(tables: Tables, blocks: Blocks, work: Work, storage: Storage) -> tuple[Dataset, list[FileEntry]]:
    """Decide over all documents and write the shards; the dataset's manifest, not yet saved, and the files of its record."""
    documents, links = _linked(tables, work, storage)
    decided, shards = settle(documents, links, work, storage)
    written = _write_shards(blocks, shards, work, storage)
    return outcome(work, documents, decided, written), [shard.record for shard in written]


def settle(documents: pa.Table, links: Links, work: Work, storage: Storage) -> tuple[pa.Table, list[Plan]]:
    """What becomes of each document (see `decide`), and the shards to write."""
    decided = decide(documents, work.config, links, names_of(storage, work.earlier, links))
    gone = _forgotten(documents, work.forgotten)
    for name in PLACE:
        decided = decided.append_column(name, documents[name])
    shards = plan(decided, work.config.documents_per_shard, gone)
    return forgetting(decided, gone), shards


def outcome(work: Work, documents: pa.Table, decided: pa.Table, written: Sequence[Written]) -> Dataset:
    """The manifest, not yet saved."""
    return manifest(
        documents, decided, written, config=work.config, files=work.files, recorded=work.recorded, key=work.key
    )


def target_of(work: Work, storage: Storage) -> Target:
    """Folders for the shards and their records.

    Raises:
        ResourceError: another run is at work there, and would not write the same.
    """
    claim(storage, work.key)
    locations = Dataset(key=work.key).location, Record(key=work.key).location
    for location in locations:
        prepare_folder(storage, location)
    (filesystem, folder), (_, record) = (filesystem_to_write(storage, location) for location in locations)
    return Target(filesystem, folder, record, rules_digest(work.recorded))


def _forgotten(documents: pa.Table, ids: Sequence[str]) -> list[int]:
    """Where these documents stand, in the order of the ids."""
    if not ids:
        return []
    wanted = set(ids)
    places = {name: i for i, name in enumerate(documents["id"].to_pylist()) if name in wanted}
    return [places[name] for name in sorted(places)]


def _check_ids(documents: pa.Table) -> None:
    """Items of evaluation and lineage go by id: a repeated one would be found out only after training."""
    import pyarrow.compute as pc

    if pc.count_distinct(documents["id"]).as_py() < len(documents):
        counted = documents["id"].value_counts().to_pylist()
        repeated = [entry["values"] for entry in counted if entry["counts"] > 1]
        raise InputError(
            "data.sources: id_field",
            f"{len(repeated)} ids stand on several documents, {repeated[0]!r} among them",
            "name a field whose values differ, or leave id_field out",
        )


def _linked(tables: Tables, work: Work, storage: Storage) -> tuple[pa.Table, Links]:
    """One row a document, in document order, and who is like whom."""
    import ray

    found = ray.get(list(tables))
    order = in_order(found)
    documents = documents_of([found[i] for i in order])
    _check_ids(documents)
    run = ray.remote(link).options(**_filling_a_core(work.config))
    todo = tasks(work.config.dedup, [len(found[i]) for i in order], storage.location, shards_of(work.earlier))
    return documents, joined(ray.get([run.remote(task, *(tables[i] for i in order)) for task in todo]))


def in_order(tables: Sequence[pa.Table]) -> list[int]:
    """The tables' numbers, in document order: each has neighbours of one stretch."""
    firsts = [tuple(table[name][0].as_py() for name in PLACE) for table in tables]
    return sorted(range(len(tables)), key=firsts.__getitem__)


def documents_of(tables: Sequence[pa.Table]) -> pa.Table:
    """Of tables in document order."""
    import pyarrow as pa

    return pa.concat_tables([told(schema().empty_table(), 0, 0), *tables]).drop_columns(["bands"])


def _filling_a_core(config: DataConfig) -> dict[str, Any]:
    return {"num_cpus": cpus_of_a_core(), "label_selector": on_pool(config.pool)}


def _write_shards(blocks: Blocks, shards: Sequence[Plan], work: Work, storage: Storage) -> list[Written]:
    import ray

    target = target_of(work, storage)
    write = ray.remote(write_shard).options(**_filling_a_core(work.config))
    results = [write.remote(target, shard, blocks) for shard in shards]
    with bar("clean", len(results), "shards") as progress:
        waiting = results
        while waiting:
            _, waiting = ray.wait(waiting, num_returns=1)
            progress.update(len(results) - len(waiting))
    return ray.get(results)


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
