"""Documents out of one file. Nothing here raises for what a file contains: what cannot be read becomes an exclusion."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from typing import IO, TYPE_CHECKING, Any

from pipelines.data import pdf
from pipelines.data.archive import MAX_ORIGIN, read_archive
from pipelines.data.document import Document
from pipelines.data.inventory import WHOLE, Cut, SourceFile
from pipelines.data.pages import declared_charset, decode, main_text, storable

if TYPE_CHECKING:
    import pyarrow as pa

MAX_JSON_BYTES = 256_000_000
"""A .json file is one value and must be read whole. Larger collections belong in JSON lines."""
SKIP_BYTES = 1 << 20
BUFFER_BYTES = 1 << 20
"""Read at a time in the middle of a file: over S3 each is a request."""


class TooLarge(Exception):
    """More bytes than allowed. Not an error of the tree: it never leaves this module."""


def read_documents(file: SourceFile, max_document_bytes: int, part: int | None = None) -> Iterator[Document]:
    """The documents of `file` in order, their positions ascending.

    Args:
        part: read that part of it alone (SourceFile.cuts). The documents of all parts are those of the file.

    Raises:
        OSError: the file was readable when it was listed and is not any more.
    """
    if file.format is None:
        assert file.reason is not None
        yield Document(file.name, "", file.name, 1, file.reason, _whole(file, file.detail))
        return
    if part is not None and file.cuts:
        yield from (_parquet if file.format == "parquet" else _jsonl)(file, max_document_bytes, part)
        return
    readers = {
        "jsonl": _jsonl,
        "json": _json,
        "parquet": _parquet,
        "text": _text,
        "html": _html,
        "pdf": _pdf,
        "warc": read_archive,
    }
    last = 0
    try:
        for document in readers[file.format](file, max_document_bytes):
            last = document.position
            yield document
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        detail = f"gzip data broken after document {last}: {error}" if last else f"not gzip data: {error}"
        yield Document(f"{file.name}#{last + 1}", "", file.name, last + 1, "unreadable", _whole(file, detail))


def _jsonl(file: SourceFile, limit: int, part: int | None = None) -> Iterator[Document]:
    (offset, first), following = (Cut(0, 1), None) if part is None else file.part(part)
    with open_file(file, offset) as stream:
        for number in count(first):
            if following is not None and offset == following.start:
                return
            line = stream.readline(limit + 1)
            if not line:
                return
            start, offset = offset, offset + len(line)
            if len(line) > limit and not line.endswith(b"\n"):
                offset += _skip_line(stream)
                found = _too_large(file, number, offset - start, limit, f"at byte {start} of {file.name}")
                yield replace(found, span=(start, offset))
            elif line.strip():
                yield _from_json_text(file, number, line.rstrip(b"\r\n"), (start, offset))


def _skip_line(stream: IO[bytes]) -> int:
    """Read on to the end of the line in small parts; how many bytes that were."""
    skipped = 0
    while part := stream.readline(SKIP_BYTES):
        skipped += len(part)
        if part.endswith(b"\n"):
            break
    return skipped


def _json(file: SourceFile, limit: int) -> Iterator[Document]:
    """An array of objects, one object, or, as often under this ending, JSON lines."""
    try:
        content = _read_whole(file, MAX_JSON_BYTES)
    except TooLarge as error:
        detail = f"{error}, over {MAX_JSON_BYTES} in one JSON value; turn it into JSON lines"
        yield Document(file.name, "", file.name, 1, "too_large", _whole(file, detail))
        return
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        if _is_json(content.lstrip().split(b"\n", 1)[0]):
            yield from _jsonl(file, limit)
        else:
            raw = storable(content.decode("utf-8", "replace"))
            yield Document(file.name, raw, file.name, 1, "broken_json", str(error) or "nested too deeply")
        return
    for number, item in enumerate(value if isinstance(value, list) else [value], 1):
        yield _limited(_from_value(file, number, item, partial(json.dumps, item)), limit)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _from_json_text(file: SourceFile, number: int, line: bytes, span: tuple[int, int]) -> Document:
    try:
        value = json.loads(line.removeprefix(codecs.BOM_UTF8).decode())
    except (ValueError, RecursionError) as error:
        what = "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error) or "nested too deeply"
        name, raw = f"{file.name}#{number}", storable(line.decode("utf-8", "replace").strip())
        return Document(name, raw, file.name, number, "broken_json", f"line {number}: {what}", span)
    return _from_value(
        file, number, value, lambda: line.decode("utf-8", "replace").strip(), span, escapes=b"\\u" in line
    )


def _from_value(
    file: SourceFile,
    number: int,
    value: Any,
    raw: Callable[[], str],
    span: tuple[int, int] | None = None,
    *,
    escapes: bool = True,
) -> Document:
    """`escapes`: its strings may be such as UTF-8 has no bytes for."""
    name = f"{file.name}#{number}"
    if not isinstance(value, dict):
        detail = f"{type(value).__name__} where an object with `{file.text_field}` belongs"
        return Document(name, storable(raw()), file.name, number, "missing_text", detail, span)
    text = value.get(file.text_field)
    if not isinstance(text, str):
        known = ", ".join(map(repr, list(value)[:8])) or "none"
        detail = f"no text in `{file.text_field}`; fields: {known}"
        return Document(name, storable(raw()), file.name, number, "missing_text", storable(detail), span)
    given = value.get(file.id_field) if file.id_field else None
    own = name if given is None else storable(str(given))
    origin = value.get(file.origin_field) if file.origin_field else None
    address = storable(origin)[:MAX_ORIGIN] if isinstance(origin, str) else ""
    return Document(own, storable(text) if escapes else text, file.name, number, None, "", span, address)


def _parquet(file: SourceFile, limit: int, part: int | None = None) -> Iterator[Document]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    begin, following = (Cut(0, 1), None) if part is None else file.part(part)
    row = begin.line - 1
    try:
        with file.filesystem.open_input_file(file.path) as stream:
            parquet = pq.ParquetFile(stream)
            names = parquet.schema_arrow.names
            if file.text_field not in names:
                detail = f"no column `{file.text_field}`; columns: {', '.join(names[:12])}"
                yield Document(file.name, "", file.name, 1, "missing_text", _whole(file, detail))
                return
            columns = [
                file.text_field,
                *(name for name in dict.fromkeys((file.id_field, file.origin_field)) if name in names),
            ]
            groups = range(begin.start, following.start if following else parquet.num_row_groups)
            for batch in parquet.iter_batches(batch_size=64, row_groups=groups, columns=columns):
                for value in _values(batch):
                    if following is not None and row + 1 == following.line:
                        return  # a damaged file may hold more rows than it tells: those numbers are the next part's
                    row += 1
                    if isinstance(value, Exception):
                        detail = f"row {row}: {storable(str(value)).splitlines()[0]}"
                        yield Document(f"{file.name}#{row}", "", file.name, row, "unreadable", detail)
                    else:
                        yield _limited(_from_value(file, row, value, partial(str, value)), limit)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and (error.errno is not None or "AWS Error" in str(error)):
            raise  # the disk or the network; Arrow reports damaged pages as OSError too, but without a number
        detail = f"not readable as Parquet from row {row + 1} on: {str(error).splitlines()[0]}"
        yield Document(f"{file.name}#{row + 1}", "", file.name, row + 1, "unreadable", _whole(file, detail))


def _values(batch: pa.RecordBatch) -> list[Any]:
    """Its rows. What Arrow holds and Python cannot (years beyond 9999, bytes that are not UTF-8) costs that row alone."""
    try:
        return batch.to_pylist()
    except (ValueError, OverflowError, LookupError) as error:  # the last one: a time zone that nobody knows
        return [error] if len(batch) == 1 else [row for i in range(len(batch)) for row in _values(batch.slice(i, 1))]


def _text(file: SourceFile, limit: int) -> Iterator[Document]:
    yield _one_document(file, limit, None)


def _html(file: SourceFile, limit: int) -> Iterator[Document]:
    page = _one_document(file, limit, declared_charset)
    if page.reason:
        yield page
        return
    text = main_text(page.text)
    if text is None:
        yield replace(page, reason="no_main_text", detail="no article found in the page")
    else:
        yield replace(page, text=storable(text))


def _pdf(file: SourceFile, limit: int) -> Iterator[Document]:
    try:
        content = _read_whole(file, pdf.MAX_BYTES)
    except TooLarge:
        yield _too_large(file, 1, file.num_bytes, pdf.MAX_BYTES, f"in {file.name}")
        return
    text, reason, detail = pdf.text_of(content, limit)
    detail = _whole(file, detail) if reason else ""
    yield Document(file.name, text, file.name, 1, reason, detail, (0, len(content)))


def _one_document(file: SourceFile, limit: int, charset: Callable[[bytes], str | None] | None) -> Document:
    try:
        content = _read_whole(file, limit)
    except TooLarge:
        packed = " (compressed)" if file.gzipped else ""
        return _too_large(file, 1, file.num_bytes, limit, f"from byte 0{packed} of {file.name}")
    text, span = decode(content, charset(content) if charset else None), (0, len(content))
    if text is None:
        return Document(file.name, "", file.name, 1, "binary", _whole(file, "bytes that are no text"), span)
    return Document(file.name, storable(text), file.name, 1, span=span)


def open_file(file: SourceFile, offset: int = 0) -> IO[bytes]:
    """Its bytes, without the compression; those behind `offset` where there is none."""
    if offset:
        stream = file.filesystem.open_input_file(file.path)
        stream.seek(offset)
        return io.BufferedReader(stream, BUFFER_BYTES)
    stream = file.filesystem.open_input_stream(file.path, compression=None)
    return gzip.GzipFile(fileobj=stream) if file.gzipped else io.BufferedReader(stream)  # type: ignore[return-value]


def _read_whole(file: SourceFile, limit: int) -> bytes:
    with open_file(file) as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise TooLarge(f"more than {limit} bytes")
    return content


def _limited(document: Document, limit: int) -> Document:
    """The document, or its exclusion; its text was in memory already and is kept on disk like any other."""
    size = len(document.text.encode())
    if document.reason or size <= limit:
        return document
    detail = f"{size} bytes, at most {limit} allowed"
    return Document(document.id, document.text, document.source, document.position, "too_large", detail)


def _too_large(file: SourceFile, number: int, size: int, limit: int, where: str) -> Document:
    name = file.name if file.format in WHOLE else f"{file.name}#{number}"
    detail = f"{size} bytes, at most {limit} allowed; the text was not read, it lies {where}"
    return Document(name, "", file.name, number, "too_large", detail)


def _whole(file: SourceFile, detail: str) -> str:
    """The detail of an exclusion without text: the file itself is the record."""
    return f"{detail}; the whole file: {file.num_bytes} bytes, sha256 {file.sha256}"
