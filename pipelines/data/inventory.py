"""Which files the sources name: listed, named independently of the machine, hashed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal, NamedTuple

from cluster.errors import InputError
from cluster.s3 import s3_filesystem
from pipelines.config import SourceConfig
from pipelines.data.document import DropReason
from pipelines.data.listing import below, fixed_part

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

Format = Literal["jsonl", "json", "parquet", "text", "html", "pdf", "warc"]
WHOLE: frozenset[Format] = frozenset({"text", "html", "pdf"})
"""Formats of files that are one document each."""

ENDINGS: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".txt": "text",
    ".md": "text",
    ".rst": "text",
    ".html": "html",
    ".htm": "html",
    ".pdf": "pdf",
    ".warc": "warc",
    ".wet": "warc",
    ".wat": "warc",
    ".arc": "warc",
}
NUMBERED = re.compile(r"(.+)#[1-9][0-9]*", re.DOTALL)
"""As documents of a file with several of them are called."""
NO_FILE = "not a regular file, a link that leads nowhere or back to where it lies, or a name that is not UTF-8"
UNREADABLE = "unreadable"
"""Stands in the place of the hash of a file that cannot be read."""


CUT_BYTES = 8_000_000
"""Between two places where a reader may begin in a large file: about a second of work."""


class Cut(NamedTuple):
    """A place in a file where a line begins, or in Parquet a row group."""

    start: int
    """The line's first byte; the row group's index."""
    line: int
    """Number of the line, or of the row group's first row, from 1."""


@dataclass(frozen=True)
class SourceFile:
    """One input file, and how its documents are found in it."""

    name: str
    """<last part of the source's path>/<path below it>: the same on every machine."""
    path: str
    """In `filesystem`."""
    filesystem: FileSystem
    format: Format | None
    """None: `reason` says why no document can come of it."""
    gzipped: bool
    text_field: str
    id_field: str | None
    num_bytes: int = 0
    sha256: str = UNREADABLE
    reason: DropReason | None = None
    detail: str = ""
    cuts: tuple[Cut, ...] = ()
    """Where readers may begin besides the beginning: at the first line, or row group, behind each CUT_BYTES. Of JSON lines that
    are not packed, and of Parquet."""
    origin_field: str | None = None

    def part(self, number: int) -> tuple[Cut, Cut | None]:
        """Where that part of the file begins, from 0, and where the next one does. There is one more than there are cuts."""
        begins = (Cut(0, 1), *self.cuts, None)
        begin = begins[number]
        assert begin is not None
        return begin, begins[number + 1]


def inventory(sources: Sequence[SourceConfig]) -> list[SourceFile]:
    """All files of all sources, in the order of the sources and then of their names, hashed (each file is read once).

    A file that cannot be read, or whose ending says nothing, is in the list with its reason.

    Raises:
        InputError: a source is missing, empty, matches nothing or cannot be listed.
    """
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(_hashed, listed(sources)))


def listed(sources: Sequence[SourceConfig]) -> list[SourceFile]:
    """As `inventory`, with the sizes that the listing tells and without hashes: no file is opened."""
    labels: set[str] = set()
    files: list[SourceFile] = []
    for source in sources:
        filesystem, path = locate(source.path)
        label = _label(PurePosixPath(fixed_part(path, filesystem)[0]).name or "source", labels)
        labels.add(label)
        files += _files(source, filesystem, path, label)
    _check_ids(files)
    return files


def _label(folder: str, taken: Set[str]) -> str:
    """The folder's name, with a number where another source has it."""
    names = (folder, *(f"{folder}-{number}" for number in range(2, len(taken) + 2)))
    return next(name for name in names if name not in taken)


def _check_ids(files: Sequence[SourceFile]) -> None:
    """Raises InputError for a file that is called as a document of another one: no id may stand for two things."""
    if not (numbered := {match[1]: file for file in files if (match := NUMBERED.fullmatch(file.name))}):
        return
    for file in files:
        if file.name in numbered and (file.format not in (None, *WHOLE) or file.gzipped):
            other = numbered[file.name]
            found = f"{other.name} is also the id of a document in {file.name}"
            raise InputError(other.path, found, "rename one of the two files, or leave one out of data.sources")


def locate(location: str) -> tuple[FileSystem, str]:
    """Raises InputError: neither a local path nor one on S3."""
    from pyarrow.fs import LocalFileSystem

    if location.startswith("s3://"):
        return s3_filesystem(), location.removeprefix("s3://").rstrip("/")
    if "://" in location and not location.startswith("file://"):
        raise InputError(location, "unknown kind of source", "use a local path or s3://bucket/folder")
    return LocalFileSystem(), location.removeprefix("file://")


def _files(source: SourceConfig, filesystem: FileSystem, path: str, label: str) -> Iterator[SourceFile]:
    from pyarrow.fs import FileType

    base, pattern = fixed_part(path, filesystem)
    try:
        root = filesystem.get_file_info(base)
        if root.type == FileType.NotFound:
            raise InputError(source.path, "no such file or folder", "correct that `path` in the recipe")
        if root.type != FileType.Directory:
            yield _source_file(source, filesystem, root, label)
            return
        found = below(filesystem, base)
    except OSError as error:
        remedy = "give an existing, readable path (and for s3:// credentials, region and endpoint)"
        raise InputError(source.path, f"cannot be listed: {reason(error)}", remedy) from None
    relative = {info.path[len(base) :].lstrip("/"): info for info in found}
    chosen = sorted(name for name in relative if pattern is None or pattern.fullmatch(name))
    if not chosen:
        found_text = "an empty folder" if pattern is None else "no file matches"
        raise InputError(source.path, found_text, "put files there, or correct that `path` in the recipe")
    for name in chosen:
        yield _source_file(source, filesystem, relative[name], f"{label}/{name}")


def _source_file(source: SourceConfig, filesystem: FileSystem, info: FileInfo, name: str) -> SourceFile:
    from pyarrow.fs import FileType

    plain = name.lower().removesuffix(".gz")
    ending = PurePosixPath(plain).suffix
    kind: Format | None = ENDINGS.get(ending) if source.format == "auto" else source.format
    gzipped = name.lower().endswith(".gz")
    file = SourceFile(name, info.path, filesystem, kind, gzipped, source.text_field, source.id_field, info.size or 0)
    file = replace(file, origin_field=source.origin_field)
    if info.type != FileType.File:
        return replace(file, format=None, num_bytes=0, reason="unreadable", detail=NO_FILE)
    if kind is None or (kind == "parquet" and gzipped):
        detail = f"ending {PurePosixPath(name).suffix or '(none)'}; set `format` if it holds documents"
        return replace(file, format=None, reason="unknown_format", detail=detail)
    return file


def _hashed(file: SourceFile) -> SourceFile:
    if file.reason == "unreadable":
        return file  # a pipe would wait for ever
    try:
        size, sha256, cuts = _size_hash_and_cuts(file)
        if file.format == "parquet":
            cuts = tuple(_row_groups(file))
    except OSError as error:
        return replace(file, format=None, num_bytes=0, reason="unreadable", detail=reason(error))
    return replace(file, num_bytes=size, sha256=sha256, cuts=cuts)


def _row_groups(file: SourceFile) -> Iterator[Cut]:
    """The first row group behind each CUT_BYTES of unpacked content; none where the file's end does not tell, or has no texts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with file.filesystem.open_input_file(file.path) as stream:
            found = pq.ParquetFile(stream)
            sizes = [found.metadata.row_group(i) for i in range(found.num_row_groups)]
            groups = [(group.total_byte_size, group.num_rows) for group in sizes]
            has_texts = file.text_field in found.schema_arrow.names
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and (error.errno is not None or "AWS Error" in str(error)):
            raise
        return
    if not has_texts or any(size < 0 or rows < 0 for size, rows in groups):
        return
    size, row = 0, 1
    for index, (num_bytes, num_rows) in enumerate(groups):
        if size >= CUT_BYTES:
            yield Cut(index, row)
            size = 0
        size, row = size + num_bytes, row + num_rows


def _size_hash_and_cuts(file: SourceFile) -> tuple[int, str, tuple[Cut, ...]]:
    total, lines, sha256 = 0, 0, hashlib.sha256()
    cuts, wanted = list[Cut](), CUT_BYTES if file.format == "jsonl" and not file.gzipped else None
    with file.filesystem.open_input_stream(file.path, compression=None) as stream:
        while chunk := stream.read(1 << 20):
            sha256.update(chunk)
            if wanted is not None:
                cuts += _cuts(chunk, total, lines, wanted)
                wanted = cuts[-1].start + CUT_BYTES if cuts else wanted
                lines += chunk.count(b"\n")
            total += len(chunk)
    return total, sha256.hexdigest(), tuple(cut for cut in cuts if cut.start < total)


def _cuts(chunk: bytes, start: int, lines: int, wanted: int) -> Iterator[Cut]:
    """Of a chunk that begins at `start`, behind so many lines: the first line that begins at `wanted` or later, and so on."""
    counted_to = 0
    while (end := chunk.find(b"\n", max(wanted - 1 - start, 0)) + 1) > 0:
        lines += chunk.count(b"\n", counted_to, end)
        counted_to = end
        yield Cut(start + end, lines + 1)
        wanted = start + end + CUT_BYTES


def reason(error: OSError) -> str:
    """What went wrong, without the codes around it."""
    return (error.strerror or str(error)).splitlines()[0]
