"""Blocks: what the workers make of the input, stretch by stretch, kept in the storage until the version is whole.

So texts lie neither at the driver nor in Ray's object store, and a run that was interrupted goes on from the blocks that are
finished. A block is a file in Arrow's format, a batch of documents after the other, and beside it, written last, its size and
hash. They lie in runs/clean/<key>/blocks/<digest of all that decides over their bytes beside the key>.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xxhash

from cluster.config import StrictModel
from cluster.errors import StageFailed
from cluster.storage import LocalStorage, Storage, filesystem_to_write, remove_folder
from pipelines.data.batch import TEXT_COLUMNS, BatchCleaner, schema
from pipelines.data.claim import written_with
from pipelines.data.stretches import Stretch

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.fs import FileSystem

CHUNK_BYTES: Final = 4 << 20
"""Read at a time to hash a block."""
PLACE: Final = ("stretch", "batch", "row")
"""Columns that say where a document lies: in the block of which stretch, in which batch of it, and its row there."""


class Whole(StrictModel):
    """Stands beside a block that is finished."""

    num_bytes: int
    xxh3_128: str


class BlockGone(StageFailed):
    """A block that was there is not any more, or damaged. Another run that made the same version has removed it, say."""


@dataclass(frozen=True)
class Blocks:
    """The blocks of one version."""

    filesystem: FileSystem
    folder: str

    def of(self, number: int) -> str:
        """Path of a stretch's block."""
        return f"{self.folder}/{number:05d}.arrow"

    def write(self, number: int, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Write a stretch's tables down as they come. Yields what is told of each: all but texts, and where they lie."""
        import pyarrow as pa

        options = pa.ipc.IpcWriteOptions(compression="lz4")
        try:
            with written_whole(self.filesystem, self.of(number)) as stream:
                hashed = _Hashed(stream)
                with pa.ipc.new_file(pa.PythonFile(hashed, mode="w"), schema(), options=options) as writer:
                    for batch, table in enumerate(table for table in tables if len(table)):
                        (whole,) = table.combine_chunks().to_batches()
                        writer.write_batch(whole)
                        yield told(table, number, batch)
            mark = Whole(num_bytes=hashed.num_bytes, xxh3_128=hashed.hash.hexdigest())
            with written_whole(self.filesystem, f"{self.of(number)}.json") as stream:
                stream.write(mark.model_dump_json().encode())
        except FileNotFoundError:  # the folder: of an input file's the cleaner tells otherwise
            raise BlockGone(f"clean: {self.folder} is gone: run the same command again") from None

    def is_finished(self, number: int) -> bool:
        """Whether the block is whole and undamaged: it is read for that."""
        try:
            with self.filesystem.open_input_file(f"{self.of(number)}.json") as stream:
                mark = Whole.model_validate_json(stream.read())
            with self.filesystem.open_input_file(self.of(number)) as stream:
                found, size = xxhash.xxh3_128(), 0
                while chunk := stream.read(CHUNK_BYTES):
                    found.update(chunk)
                    size += len(chunk)
        except ValueError:
            return False
        except OSError as error:
            if isinstance(error, FileNotFoundError) or "NO_SUCH_KEY" in str(error):  # pyarrow's of an object
                return False
            raise
        is_whole = mark == Whole(num_bytes=size, xxh3_128=found.hexdigest())
        (_SOUND.add if is_whole else _SOUND.discard)(self.of(number))
        return is_whole

    def tell(self, number: int) -> Iterator[pa.Table]:
        """Of a finished block what `write` told."""
        with self._opened(number) as reader:
            for batch in range(reader.num_record_batches):
                yield told(_table(reader, batch), number, batch)

    def take(self, places: pa.Table, names: Sequence[str]) -> pa.Table:
        """These columns of the documents at these places, in the order of the places.

        Each block is read whole and hashed once in a process before anything is taken from it.

        Raises:
            BlockGone: of a block that is not there, or damaged.
        """
        import pyarrow as pa

        stretch, batch, row = (np.asarray(places[name]) for name in PLACE)
        order = np.lexsort((row, batch, stretch))
        tables = [schema().empty_table().select(names)]
        for chosen in _runs(order, stretch):
            with self._opened(int(stretch[chosen[0]])) as reader:
                for rows in _runs(chosen, batch):
                    tables.append(_table(reader, int(batch[rows[0]])).select(names).take(pa.array(row[rows])))
        found = pa.concat_tables(tables).combine_chunks()  # else Parquet's bytes would tell how the input was cut
        is_ordered = bool((np.diff(order) > 0).all())
        return found if is_ordered else found.take(pa.array(np.argsort(order)))

    @contextmanager
    def _opened(self, number: int) -> Iterator[pa.ipc.RecordBatchFileReader]:
        import pyarrow as pa
        from pyarrow.fs import LocalFileSystem

        path, is_local = self.of(number), isinstance(self.filesystem, LocalFileSystem)
        if path not in _SOUND and not self.is_finished(number):
            raise BlockGone(f"clean: {path} is gone or damaged: run the same command again")
        try:
            stream = pa.memory_map(path) if is_local else self.filesystem.open_input_file(path)
        except OSError as error:
            raise _unreadable(path, error) from None
        with stream:
            yield pa.ipc.open_file(stream)


_SOUND = set[str]()
"""Paths of blocks that this process has read whole and found undamaged: each is read so once."""


def _runs(order: Any, keys: Any) -> list[Any]:
    """The order, cut where the keys change."""
    return np.split(order, np.flatnonzero(np.diff(keys[order])) + 1) if len(order) else []


def _table(reader: pa.ipc.RecordBatchFileReader, batch: int) -> pa.Table:
    import pyarrow as pa

    try:
        return pa.Table.from_batches([reader.get_batch(batch)])
    except (OSError, ValueError) as error:  # removed or written anew since it was looked at
        raise _unreadable("a block", error) from None


def _unreadable(what: str, error: Exception) -> BlockGone:
    return BlockGone(f"clean: {what} cannot be read any more ({error}): run the same command again")


def told(table: pa.Table, number: int, batch: int) -> pa.Table:
    """What the driver gets of a batch of documents."""
    import pyarrow as pa

    rows = len(table)
    places = (np.full(rows, number), np.full(rows, batch), np.arange(rows))
    for name, place in zip(PLACE, places, strict=True):
        table = table.append_column(name, pa.array(place, pa.int32()))
    return table.drop_columns(list(TEXT_COLUMNS))


def blocks_of(storage: Storage, key: str, cut: Sequence[Stretch]) -> Blocks:
    """Where the blocks of that version lie, with the input so cut."""
    decides = (written_with(), schema().to_string(), *((stretch.number, stretch.parts) for stretch in cut))
    digest = xxhash.xxh3_64_hexdigest(repr(decides).encode())
    return Blocks(*filesystem_to_write(storage, f"{_folder(key)}/{digest}"))


def num_finished(storage: Storage, key: str, blocks: Blocks) -> int:
    """Blocks that an interrupted run left, as far as a listing tells."""
    digest = blocks.folder.rpartition("/")[2]
    return sum(name.endswith(".json") for name in storage.list(f"{_folder(key)}/{digest}"))


def num_files(storage: Storage, key: str) -> int:
    """That lie about of the blocks of that version."""
    return sum(1 for _ in storage.list(_folder(key)))


def with_blocks(storage: Storage) -> tuple[str, ...]:
    """Keys of the versions of which there are blocks."""
    from pyarrow.fs import FileSelector, FileType

    filesystem, folder = storage.filesystem("runs/clean")
    found = filesystem.get_file_info(FileSelector(folder, recursive=True, allow_not_found=True))
    names = [info.path[len(folder) + 1 :].split("/") for info in found if info.type == FileType.File]
    return tuple(sorted({key for key, part, *_ in names if part != "claim.json"}))


def remove_blocks(storage: Storage, key: str) -> None:
    """Of a version that is whole, however its input was cut. A run that is at work on it all the same finds its blocks gone."""
    if not isinstance(storage, LocalStorage):
        remove_folder(storage, _folder(key))
        return
    folder = storage.path(_folder(key))
    aside = folder.with_name(f".tmp-{uuid.uuid4().hex}")
    with suppress(FileNotFoundError):
        folder.rename(aside)  # at once: in a folder that is written to, one file after the other cannot be removed
    shutil.rmtree(aside, ignore_errors=True)


def _folder(key: str) -> str:
    return f"runs/clean/{key}/blocks"


@dataclass(frozen=True)
class Judge:
    """What a worker calls: numbers of stretches in, tables out with what is told of their documents. Their texts lie in blocks."""

    cleaner: BatchCleaner
    stretches: tuple[Stretch, ...]
    blocks: Blocks

    def __call__(self, rows: dict[str, Any]) -> Iterator[pa.Table]:
        for number in map(int, rows["stretch"]):
            if self.blocks.is_finished(number):
                yield from self.blocks.tell(number)
            else:
                yield from self.blocks.write(number, self.cleaner(self.stretches[number].parts))


class _Hashed:
    """A stream that is written to, with the hash of what was."""

    closed = False

    def __init__(self, stream: Any) -> None:
        self._stream, self.hash, self.num_bytes = stream, xxhash.xxh3_128(), 0

    def write(self, data: Any) -> int:
        self.hash.update(data)
        self.num_bytes += len(data)
        self._stream.write(data)
        return len(data)

    def flush(self) -> None:
        """Whoever opened the stream closes it."""

    def close(self) -> None:
        self.closed = True


@contextmanager
def written_whole(filesystem: FileSystem, path: str) -> Iterator[Any]:
    """A stream to write a file by, which readers see when the block has ended without an error, and then whole.

    A folder's readers must not see a part of a file, least of all one that another run has written already. S3 shows whole
    objects only.
    """
    from pyarrow.fs import LocalFileSystem

    if not isinstance(filesystem, LocalFileSystem):
        # A whole one first: an upload that is left in the middle would become an object.
        with tempfile.SpooledTemporaryFile(max_size=CHUNK_BYTES) as content:
            yield content
            content.seek(0)
            with filesystem.open_output_stream(path) as stream:
                shutil.copyfileobj(content, stream, CHUNK_BYTES)
        return
    folder = path.rpartition("/")[0]
    hidden = f"{folder}/.tmp-{uuid.uuid4().hex}"
    filesystem.create_dir(folder, recursive=True)
    try:
        with filesystem.open_output_stream(hidden) as stream:
            yield stream
        filesystem.move(hidden, path)
    except BaseException:  # the disk is full, say: what is half there must not fill it for good
        with suppress(OSError):
            filesystem.delete_file(hidden)
        raise
