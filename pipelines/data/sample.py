"""A sample of the input, cleaned in this process, and what that took: what an estimate of the whole rests on.

Places are chosen by size, so that every byte of the input has the same chance (systematic sampling with a fixed seed). A large
file of JSON lines is read from there on, any other large file from where the last place in it ended, and small files are taken
several at a time. An input not larger than the sample is read whole.
"""

from __future__ import annotations

import hashlib
import random
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

from pipelines.data import pdf
from pipelines.data.archive import read_records
from pipelines.data.batch import Placed, clean_batch
from pipelines.data.document import Document
from pipelines.data.inventory import WHOLE, Cut, SourceFile
from pipelines.data.pages import main_text
from pipelines.data.read import open_file, read_documents
from pipelines.data.rules import compile_rules
from pipelines.data.shards import parquet_bytes
from pipelines.data.verdict import Standards

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.fs import FileSystem

    from pipelines.config import DataConfig

PLACE_BYTES = 512_000
"""Read at each place, about; of files that must be read whole, as much as they have."""
MAX_PLACE_BYTES = 4 * PLACE_BYTES
"""However little text is found in them; more than readers read ahead (RAW_BLOCK in unpacked.py)."""
MAX_WHOLE_BYTES = 8_000_000
"""A larger file that must be read whole (.json) is not sampled."""


class Place(NamedTuple):
    """What was found at one place. Bytes are those of files, packed where they are packed."""

    num_bytes: int
    num_documents: int
    num_kept: int
    out_bytes: int
    """Of Parquet, for what is kept."""
    cpu_s: float


class Sample(NamedTuple):
    places: list[Place]
    num_bytes_read: int
    """From disk or network, more than the places hold: readers read ahead."""
    not_sampled: list[str]
    """Large files: names of files that would have had to be read whole."""


def take(files: Sequence[SourceFile], config: DataConfig, key: bytes, standards: Standards, size: int) -> Sample:
    """Read and clean about `size` bytes of these files. The first, warming-up batch is not in the figures.

    Raises:
        OSError: a file cannot be read.
    """
    rules, counter = compile_rules(config.rules), _Counter()
    readers = [_Reader(file, config.max_document_bytes, counter) for file in files if file.num_bytes]
    places = list[Place]()
    if any(file.format in ("html", "warc") for file in files):
        main_text("<p>words</p>")  # imports what extracts, which takes seconds
    for documents, num_bytes, took_s in _read(readers, size):
        batch = [Placed(0, i, document) for i, document in enumerate(documents)]
        for _ in range(1 if places else 2):  # the first one waits for compiled code and models
            began = time.process_time()
            kept = _kept(clean_batch(batch, rules, config, key, standards)) if batch else None
            out_bytes = len(parquet_bytes(kept)) if kept is not None else 0
            cpu_s = took_s + time.process_time() - began
        places.append(Place(num_bytes, len(batch), len(kept or ()), out_bytes, cpu_s))
    return Sample(places, counter.num_bytes, [reader.file.name for reader in readers if reader.is_too_large])


def _cpu_s() -> float:
    """Of this process, and of the one that reads PDFs for it."""
    return time.process_time() + pdf.used_cpu_s()


def hash_s_per_byte() -> float:
    """CPU seconds of SHA-256, by which every input byte is named once more."""
    content, began = bytes(4_000_000), time.process_time()
    hashlib.sha256(content).digest()
    return (time.process_time() - began) / len(content)


def _kept(table: pa.Table) -> pa.Table:
    import pyarrow.compute as pc

    return table.filter(pc.equal(table["reason"], "")).select(
        ["id", "text", "source", "position", "language", "protected"]
    )


def _read(readers: Sequence[_Reader], size: int) -> Iterator[tuple[list[Document], int, float]]:
    """The documents of each place, the bytes of files that they took, and the CPU seconds."""
    ends = list(accumulate(reader.file.num_bytes for reader in readers))
    if not ends or ends[-1] <= size:
        yield from _whole(readers)
        return
    num = max(size // PLACE_BYTES, 1)
    rng = random.Random(0)  # noqa: S311 - places, no secrets
    for i in range(num):
        at = int((i + rng.random()) * ends[-1] / num)
        index = bisect_right(ends, at)
        offset = at - ends[index] + readers[index].file.num_bytes
        began, documents, num_bytes = _cpu_s(), list[Document](), 0
        for reader in readers[index:]:
            found, read = reader.next_place(offset)
            documents, num_bytes = documents + found, num_bytes + read
            if num_bytes >= PLACE_BYTES or not reader.is_small:
                break
        if num_bytes:
            yield documents, num_bytes, _cpu_s() - began


def _whole(readers: Sequence[_Reader]) -> Iterator[tuple[list[Document], int, float]]:
    for reader in readers:
        while True:
            began = _cpu_s()
            documents, num_bytes = reader.next_place(0)
            if not documents and not num_bytes:
                break
            yield documents, num_bytes, _cpu_s() - began


class _Reader:
    """One file, a place at a time."""

    def __init__(self, file: SourceFile, limit: int, counter: _Counter) -> None:
        self.file = replace(file, filesystem=_Counting(file.filesystem, counter))
        self._limit, self._counter = limit, counter
        self._documents: Iterator[Document | None] | None = None
        self._told = 0
        """Bytes of the file in the places so far."""

    @property
    def is_small(self) -> bool:
        return self.file.num_bytes <= PLACE_BYTES

    @property
    def is_too_large(self) -> bool:
        return self.file.format in ("json", *WHOLE) and self.file.num_bytes > MAX_WHOLE_BYTES

    def next_place(self, offset: int) -> tuple[list[Document], int]:
        """Documents of about PLACE_BYTES, and how much of the file they are; nothing at its end."""
        if self.is_too_large:
            return [], 0
        if self.file.format == "jsonl" and not self.file.gzipped and offset and not self.is_small:
            return self._lines(offset)
        if self._documents is None:
            read_all = read_records if self.file.format == "warc" else read_documents
            self._documents = read_all(self.file, self._limit)
        documents, size, before = list[Document](), 0, self._counter.num_bytes
        for document in self._documents:
            if document is not None:
                documents.append(document)
                size += len(document.text)
            read = self._counter.num_bytes - before
            # Images in an archive are documents without text, and the records of a WAT file are none at all.
            if size >= PLACE_BYTES or read >= MAX_PLACE_BYTES:
                return documents, self._progress(documents, read)
        return documents, self._progress([], self.file.num_bytes)

    def _progress(self, documents: list[Document], read: int) -> int:
        """Bytes of the file that belong to what was read since the last place. Packed files are read ahead by a little."""
        told = self._told + read
        if documents and self.file.format == "parquet":
            told = self.file.num_bytes * documents[-1].position // max(self._num_rows(), 1)
        elif documents and (self.file.format == "warc" or not self.file.gzipped) and documents[-1].span:
            told = documents[-1].span[1]
        before, self._told = self._told, min(max(told, self._told), self.file.num_bytes)
        return self._told - before

    def _num_rows(self) -> int:
        import pyarrow.parquet as pq

        with self.file.filesystem.open_input_file(self.file.path) as stream:
            return pq.ParquetFile(stream).metadata.num_rows

    def _lines(self, offset: int) -> tuple[list[Document], int]:
        """From the next line on."""
        with open_file(self.file, offset) as stream:
            start = offset + len(stream.readline(self._limit + 1))
        documents, end = list[Document](), start
        for document in read_documents(replace(self.file, cuts=(Cut(start, 1),)), self._limit, 1):
            documents.append(document)
            end = document.span[1] if document.span else end
            if end - start >= PLACE_BYTES:
                break
        return documents, end - start


class _Counter:
    num_bytes = 0


class _Counting:
    """A file system whose files tell how much is read of them."""

    def __init__(self, filesystem: FileSystem, counter: _Counter) -> None:
        self.filesystem, self.counter = filesystem, counter

    def open_input_stream(self, path: str, compression: str | None = None) -> Any:
        return self._counted(self.filesystem.open_input_stream(path, compression=compression))

    def open_input_file(self, path: str) -> Any:
        return self._counted(self.filesystem.open_input_file(path))

    def _counted(self, stream: Any) -> Any:
        import pyarrow as pa

        return pa.PythonFile(_CountedFile(stream, self.counter), mode="r")


class _CountedFile:
    """What pyarrow.PythonFile needs."""

    closed = False

    def __init__(self, stream: Any, counter: _Counter) -> None:
        self._stream, self._counter = stream, counter

    def read(self, size: int = -1) -> bytes:
        content: bytes = self._stream.read(size if size >= 0 else None)
        self._counter.num_bytes += len(content)
        return content

    def seek(self, place: int, whence: int = 0) -> int:
        return self._stream.seek(place, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def size(self) -> int:
        return self._stream.size()

    def flush(self) -> None:
        """Arrow flushes what it closes."""

    def close(self) -> None:
        self.closed = True
        self._stream.close()
