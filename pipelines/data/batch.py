"""What one worker does with one batch of documents: rules, filters, language, fingerprints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster.errors import StageFailed
from pipelines.config import DataConfig
from pipelines.data import dedup, filters, language
from pipelines.data.document import Document
from pipelines.data.filters import Drop
from pipelines.data.inventory import SourceFile
from pipelines.data.read import read_documents
from pipelines.data.rules import Rule, compile_rules

if TYPE_CHECKING:
    import pyarrow as pa

MAX_BATCH_DOCUMENTS = 256
MAX_BATCH_CHARACTERS = 8_000_000
"""A worker holds one batch at a time: the texts as read, the cleaned ones and some working space, about 100 MB."""

TEXT_COLUMNS = ("original", "text")


class Verdict(NamedTuple):
    """What is known of one document once it was looked at alone."""

    reason: str
    """Empty: nothing against it."""
    detail: str
    language: str
    fingerprint: bytes
    bands: bytes


@dataclass(frozen=True)
class BatchCleaner:
    """Callable for Ray Data: rows naming files in, tables of cleaned documents with their verdicts out."""

    files: tuple[SourceFile, ...]
    config: DataConfig

    def __call__(self, rows: dict[str, Any]) -> Iterator[pa.Table]:
        rules = compile_rules(self.config.rules)
        for index in rows["file"]:
            for first, documents in self._batches(int(index)):
                yield clean_batch(documents, rules, self.config, int(index), first)

    def _batches(self, index: int) -> Iterator[tuple[int, list[Document]]]:
        file = self.files[index]
        first, size, documents = 0, 0, list[Document]()
        try:
            for document in read_documents(file, self.config.max_document_bytes):
                documents.append(document)
                size += len(document.text)
                if len(documents) >= MAX_BATCH_DOCUMENTS or size >= MAX_BATCH_CHARACTERS:
                    yield first, documents
                    first, size, documents = first + len(documents), 0, []
        except OSError as error:
            raise StageFailed(f"{file.name} was readable when it was listed and is not any more: {error}") from None
        if documents:
            yield first, documents


def schema() -> pa.Schema:
    """Of a batch. `file` and `ordinal` give the document order; `original` is the text as read, `text` cleaned."""
    import pyarrow as pa

    return pa.schema(
        {
            "file": pa.int32(),
            "ordinal": pa.int64(),
            "id": pa.string(),
            "source": pa.string(),
            "position": pa.int64(),
            "original": pa.large_string(),
            "text": pa.large_string(),
            "num_characters_in": pa.int64(),
            "num_characters": pa.int64(),
            "changed_by": pa.list_(pa.string()),
            **{name: pa.binary() if name in ("fingerprint", "bands") else pa.string() for name in Verdict._fields},
        }
    )


def clean_batch(
    documents: Sequence[Document], rules: Sequence[Rule], config: DataConfig, file: int, first: int
) -> pa.Table:
    """The documents' cleaned texts and verdicts; `first` is the number of the first one in its file."""
    import pyarrow as pa

    originals = [document.text for document in documents]
    texts, changed_by = _rewrite(documents, rules)
    verdicts = [_judge(document, text, config) for document, text in zip(documents, texts, strict=True)]
    columns = {
        "file": [file] * len(documents),
        "ordinal": range(first, first + len(documents)),
        "id": [document.id for document in documents],
        "source": [document.source for document in documents],
        "position": [document.position for document in documents],
        "original": originals,
        "text": texts,
        "num_characters_in": [len(text) for text in originals],
        "num_characters": [len(text) for text in texts],
        "changed_by": changed_by,
        **dict(zip(Verdict._fields, zip(*verdicts, strict=True), strict=True)),
    }
    return pa.table(columns, schema=schema())


def _rewrite(documents: Sequence[Document], rules: Sequence[Rule]) -> tuple[list[str], list[list[str]]]:
    """The texts after all rules, and for each document the rules that changed it. What was not read stays as it is."""
    import pyarrow as pa
    import pyarrow.compute as pc

    readable = [i for i, document in enumerate(documents) if document.reason is None]
    texts = [document.text for document in documents]
    changed_by: list[list[str]] = [[] for _ in documents]
    column = pa.array([texts[i] for i in readable], pa.large_string())
    for rule in rules:
        before, column = column, rule.apply(column)
        for row in pc.indices_nonzero(pc.not_equal(before, column)).to_pylist():
            changed_by[readable[row]].append(rule.name)
    for i, text in zip(readable, column.to_pylist(), strict=True):
        texts[i] = text
    return texts, changed_by


def _judge(document: Document, text: str, config: DataConfig) -> Verdict:
    """Cheap filters first: the language costs most and is asked only of what passed them."""
    if document.reason is not None:
        return Verdict(document.reason, document.detail, "", b"", b"")
    if drop := filters.cheap_drop(text, config.filters):
        return Verdict(*drop, "", b"", b"")
    code, confidence = language.identify(text)
    objection: Drop | None = filters.language_drop(code, confidence, config.filters) or filters.stop_word_drop(
        text, code, config.filters
    )
    if objection:
        return Verdict(*objection, code, b"", b"")
    bands = dedup.band_keys(text, config.dedup) if config.dedup.near else b""
    return Verdict("", "", code, dedup.fingerprint(text), bands)
