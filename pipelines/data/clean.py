"""From raw documents to a dataset: the clean stage, on Ray Data or, for small inputs, in one of Ray's tasks.

    files -> [read, rewrite, filter, fingerprint] -> duplicates, repeated text, split, at the driver -> [shards]

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
from typing import TYPE_CHECKING

from cluster.artifacts import Dataset, FileEntry, Record, load
from cluster.errors import InputError, ResourceError, StageFailed, UserError
from cluster.pools import on_pool
from cluster.session import cpus_of_a_core
from cluster.storage import Storage, filesystem_to_write
from cluster.waiting import watched
from pipelines.config import DataConfig
from pipelines.data.blocks import (
    BlockGone,
    Blocks,
    Judge,
    blocks_of,
    num_files,
    num_finished,
    remove_blocks,
)
from pipelines.data.claim import claim, release
from pipelines.data.compare import Pool, filling_a_core, linked, parted
from pipelines.data.protect import read_key
from pipelines.data.record import save_both
from pipelines.data.recorded import rules_digest
from pipelines.data.rules import compile_rules
from pipelines.data.settle import Settled, outcome, settle
from pipelines.data.shards import Plan, Target, Written, prepare_folder, remove_leftovers, write_shard
from pipelines.data.stretches import stretches
from pipelines.data.tell import repeated_text
from pipelines.data.work import Work, check_models, cleaner_of, prepare
from pipelines.progress import bar, say

if TYPE_CHECKING:
    import pyarrow as pa
    import ray

    Tables = list[ray.ObjectRef[pa.Table]]

SPILL_REMEDY = "free space where Ray's nodes have their folders (/tmp by default), and run the same command again"
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
    try:
        with watched("clean", config.pool, num_tasks=len(judge.stretches)), _told_apart(storage):
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

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # its plans are not for users; what fails is raised here

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
    from ray import exceptions as ends

    try:
        yield
    except (ends.RayError, OSError) as error:
        cause = _root_cause(error)
        if isinstance(cause, ends.NodeDiedError | ends.OutOfMemoryError | ends.WorkerCrashedError):
            found = (
                f"clean: a worker died time and again ({type(cause).__name__}): its machine was lost or memory ran out"
            )
            raise StageFailed(f"{found}; run the same command again, with larger nodes if it recurs") from None
        if isinstance(cause, StageFailed):
            raise type(cause)(str(cause)) from None
        if isinstance(cause, UserError):  # a file of rules that runs here may lack a module there
            raise type(cause)(cause.where, cause.found, cause.remedy) from None
        if isinstance(cause, ends.OutOfDiskError | ends.ObjectStoreFullError):
            found = "is full, and so is the disk that its objects are put on then (95 % of it, as Ray counts)"
            raise ResourceError("Ray's object store", found, SPILL_REMEDY) from None
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
    """Decide over all documents and write the shards; the dataset's manifest, not yet saved, and the files of its record.

    What was compared is let go of before shards are written: it would lie in Ray's object store all the while.
    """
    settled = _settled(tables, blocks, work, storage)
    written = _write_shards(blocks, settled.shards, work, storage)
    return outcome(work, settled, written), [shard.record for shard in written]


def _settled(tables: Tables, blocks: Blocks, work: Work, storage: Storage) -> Settled:
    """Takes the tables out of the list."""
    workers, found = Pool(work.config), parted(tables, work.config)
    links = linked(found, work, storage, workers)
    return settle(found, links, blocks=blocks, work=work, storage=storage, workers=workers)


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


def _write_shards(blocks: Blocks, shards: Sequence[Plan], work: Work, storage: Storage) -> list[Written]:
    import ray

    target = target_of(work, storage)
    write = ray.remote(write_shard).options(**filling_a_core(work.config))
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
    if dataset.repeated:
        say("clean", f"  removed      {repeated_text(dataset.repeated)}")


def _counts(dataset: Dataset) -> str:
    kept = f"{dataset.num_kept} kept ({dataset.num_train} to train, {dataset.num_heldout} held out)"
    return f"{dataset.num_documents} documents: {kept}, {dataset.num_excluded} excluded"


def _by_count(dataset: Dataset) -> list[tuple[str, int]]:
    return sorted(dataset.num_excluded_by_reason.items(), key=lambda item: (-item[1], item[0]))
