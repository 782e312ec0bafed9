"""A few documents read again from the sources: what is kept is kept as rewritten, and only the source has the text before."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.artifacts import Dataset
from cluster.errors import UserError
from pipelines.config import DataConfig
from pipelines.data.document import Document
from pipelines.data.inventory import Cut, SourceFile, listed
from pipelines.data.read import read_documents

MAX_WALK_BYTES = 64_000_000
"""Of a file that has to be read from its beginning to get at one document (packed, JSON, an archive without places)."""
MAX_RECORD_BYTES = 16_000_000


def source_files(dataset: Dataset, config: DataConfig) -> dict[str, SourceFile]:
    """The files of the recipe's sources that the dataset was made of, by name, as far as their sizes are still the same.

    Raises:
        UserError: a source cannot be listed.
    """
    sizes = {source.path: source.num_bytes for source in dataset.sources}
    found = listed(config.sources)
    return {file.name: file for file in found if file.format and sizes.get(file.name) == file.num_bytes}


def read_again(files: Mapping[str, SourceFile], rows: Sequence[Mapping[str, Any]], limit: int) -> dict[str, str]:
    """Texts as they stand in the sources, by the documents' ids. Who cannot be found where the record says is left out."""
    found: dict[str, str] = {}
    for row in rows:
        file = files.get(row["source"])
        if file is None:
            continue
        try:
            document = _document(file, row["position"], row["span"], limit)
        except (OSError, UserError):
            continue
        if document is not None and not document.reason and len(document.text) == row["num_characters_in"]:
            found[row["id"]] = document.text
    return found


def _document(file: SourceFile, position: int, span: Sequence[int] | None, limit: int) -> Document | None:
    if file.format == "jsonl" and not file.gzipped and span:
        return next(read_documents(replace(file, cuts=(Cut(span[0], position),)), limit, 1), None)
    if file.format == "parquet":
        return _at(read_documents(_from_row_group(file, position), limit, 1), position)
    if file.format == "warc" and span and span[1] - span[0] <= MAX_RECORD_BYTES:
        return _record(file, span, limit)
    return _at(read_documents(file, limit), position) if file.num_bytes <= MAX_WALK_BYTES else None


def _at(documents: Iterator[Document], position: int) -> Document | None:
    with closing(documents):  # type: ignore[type-var]  # generators
        return next((document for document in documents if document.position == position), None)


def _from_row_group(file: SourceFile, position: int) -> SourceFile:
    """The file, with a part that begins where that row's group does."""
    import pyarrow.parquet as pq

    with file.filesystem.open_input_file(file.path) as stream:
        metadata = pq.ParquetFile(stream).metadata
    first = 1
    for index in range(metadata.num_row_groups):
        following = first + metadata.row_group(index).num_rows
        if position < following:
            return replace(file, cuts=(Cut(index, first),))
        first = following
    return replace(file, cuts=(Cut(0, 1),))


def _record(file: SourceFile, span: Sequence[int], limit: int) -> Document | None:
    """Of an archive the bytes of one record alone, which are an archive themselves."""
    from pyarrow.fs import LocalFileSystem

    with file.filesystem.open_input_file(file.path) as stream:
        stream.seek(span[0])
        content = stream.read(span[1] - span[0])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "record"
        path.write_bytes(content)
        alone = replace(file, path=str(path), filesystem=LocalFileSystem(), num_bytes=len(content))
        return next(read_documents(alone, limit), None)
