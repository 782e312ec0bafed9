"""What one worker does with one batch of documents: rules, filters, language, fingerprints."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cluster.errors import StageFailed
from pipelines.config import DataConfig, ProtectConfig
from pipelines.data.document import Document
from pipelines.data.functions import FunctionFailed
from pipelines.data.inventory import SourceFile
from pipelines.data.protect import Protected, protect_column, showing_more
from pipelines.data.read import read_documents
from pipelines.data.repair import repair_column
from pipelines.data.rules import REPAIR, Rule, compile_rules
from pipelines.data.verdict import KEYS, NO_STANDARDS, Standards, Verdict, chosen, judge

if TYPE_CHECKING:
    import pyarrow as pa

MAX_BATCH_DOCUMENTS = 2_048
MAX_BATCH_CHARACTERS = 8_000_000
"""A worker holds one batch at a time: the texts as read, the cleaned ones and some working space, about 100 MB."""

OBJECTS_A_COLLECTION = 100_000
"""Python's collector looks for circles when so many more are there: about once a batch."""

TEXT_COLUMNS = ("original", "text")


class Placed(NamedTuple):
    """A document and its place in the order of all: the file's, and its own in the file, whichever part of it was read."""

    file: int
    ordinal: int
    document: Document


@dataclass(frozen=True)
class BatchCleaner:
    """What a worker calls: files (by their indices), or parts of them, in, tables of cleaned documents with their verdicts out."""

    files: tuple[SourceFile, ...]
    config: DataConfig
    key: bytes = b""
    """Under which protected values are hashed."""
    standards: Standards = NO_STANDARDS
    functions: Mapping[str, str] | None = None
    """Sources of the rules that are functions, by the rules' names; None where their files are at hand."""

    def __call__(self, parts: Sequence[tuple[int, int | None]]) -> Iterator[pa.Table]:
        rules = compile_rules(self.config.rules, self.functions)
        _spare_the_collector()
        for batch in self._batches(parts):
            yield clean_batch(batch, rules, self.config, self.key, self.standards)

    def _batches(self, parts: Sequence[tuple[int, int | None]]) -> Iterator[list[Placed]]:
        """Of documents in order. Small files share a batch."""
        size, batch = 0, list[Placed]()
        for placed in chain.from_iterable(self._read(*part) for part in parts):
            batch.append(placed)
            size += len(placed.document.text)
            if len(batch) >= MAX_BATCH_DOCUMENTS or size >= MAX_BATCH_CHARACTERS:
                yield batch
                size, batch = 0, []
        if batch:
            yield batch

    def _read(self, index: int, part: int | None) -> Iterator[Placed]:
        file = self.files[index]
        try:
            for document in read_documents(file, self.config.max_document_bytes, part):
                yield Placed(index, document.position - 1, document)
        except OSError as error:
            raise StageFailed(f"{file.name} was readable when it was listed and is not any more: {error}") from None


@cache
def _spare_the_collector() -> None:
    """Once a process: modules are half a million objects, which it would look through again for every few thousand documents.
    Documents hold no circles and are let go with their batch: to look after every 700 objects took 6 % of all time.
    """
    gc.freeze()
    gc.set_threshold(OBJECTS_A_COLLECTION, *gc.get_threshold()[1:])


def schema() -> pa.Schema:
    """Of a batch. `file` and `ordinal` give the document order; `original` is the text as read, null where it is `text`, and
    `text` the cleaned one, null where there is a reason against it: texts cost blocks their bytes."""
    import pyarrow as pa

    return pa.schema(
        {
            "file": pa.int32(),
            "ordinal": pa.int64(),
            "id": pa.string(),
            "source": pa.string(),
            "position": pa.int64(),
            "span": pa.list_(pa.int64(), 2),
            "origin": pa.string(),
            "original": pa.large_string(),
            "text": pa.large_string(),
            "num_characters_in": pa.int64(),
            "num_characters": pa.int64(),
            "changed_by": pa.list_(pa.string()),
            "protected": pa.list_(pa.struct({"kind": pa.string(), "start": pa.int32(), "end": pa.int32()})),
            **{name: pa.binary() if name in KEYS else pa.string() for name in Verdict._fields},
        }
    )


def clean_batch(
    batch: Sequence[Placed],
    rules: Sequence[Rule],
    config: DataConfig,
    key: bytes = b"",
    standards: Standards = NO_STANDARDS,
) -> pa.Table:
    """The documents' cleaned texts and verdicts."""
    import pyarrow as pa
    import pyarrow.compute as pc

    documents = [placed.document for placed in batch]
    read = pa.array([document.text for document in documents], pa.large_string())
    readable = np.array([document.reason is None for document in documents])
    repaired = repair_column(read) if config.protect.actions else None
    with _named(documents, readable):
        rewritten, changed_by = _rewrite(read, readable, rules, repaired)
    texts, protected = protect_column(rewritten, config.protect.actions, key)
    originals = read
    if repaired is not None:  # the originals are kept where a document is excluded
        shown = _most_telling(read, repaired, rewritten, list(protected), config.protect)
        others = pc.not_equal(shown, rewritten)
        masked = protect_column(shown.filter(others), config.protect.actions, key)[0]
        originals = pc.replace_with_mask(texts, others, masked)
    judged = judge(texts.filter(readable), config, standards)
    verdicts = _verdicts(documents, readable, judged, protected)
    for i in protected:
        changed_by[i].append("protect")
    in_question = pa.array([not verdict.reason for verdict in verdicts])
    columns: dict[str, Any] = {
        **_places(batch),
        "original": pc.if_else(pc.and_(pc.equal(originals, texts), in_question), None, originals),
        "text": pc.if_else(in_question, texts, None),
        "num_characters_in": pc.utf8_length(read),
        "num_characters": pc.utf8_length(texts),
        "changed_by": changed_by,
        "protected": [
            [span._asdict() for span in protected[i].spans] if i in protected else [] for i in range(len(batch))
        ],
        **dict(zip(Verdict._fields, zip(*verdicts, strict=True), strict=True)),
    }
    return pa.table(columns, schema=schema())


def _places(batch: Sequence[Placed]) -> dict[str, list[Any]]:
    """Columns that say where each document comes from."""
    documents = [placed.document for placed in batch]
    return {
        "file": [placed.file for placed in batch],
        "ordinal": [placed.ordinal for placed in batch],
        **{name: [getattr(one, name) for one in documents] for name in ("id", "source", "position", "span", "origin")},
    }


@contextmanager
def _named(documents: Sequence[Document], readable: NDArray[np.bool_]) -> Iterator[None]:
    """Raises StageFailed: a rule that is a function failed on one of them."""
    try:
        yield
    except FunctionFailed as error:
        document = documents[int(np.flatnonzero(readable)[error.row])]
        place = f"{document.id}, number {document.position} of {document.source}"
        raise StageFailed(f"{error.told}, {place}: mend it and run the same command again") from None


def _verdicts(
    documents: Sequence[Document],
    readable: NDArray[np.bool_],
    judged: Sequence[Verdict],
    protected: Mapping[int, Protected],
) -> list[Verdict]:
    """Of each document, read or not; `judged` are those that were. What is found against a text goes before values that must not
    stand in it."""
    verdicts = [Verdict(document.reason or "", document.detail, "", b"", b"") for document in documents]
    for i, verdict in zip(np.flatnonzero(readable).tolist(), judged, strict=True):
        verdicts[i] = verdict
    for i, found in protected.items():
        if found.refused and not verdicts[i].reason:
            kinds = ", ".join(sorted({span.kind for span in found.refused}))
            verdicts[i] = Verdict("personal_data", kinds, verdicts[i].language, b"", b"")
    return verdicts


def _most_telling(
    originals: pa.Array, repaired: pa.Array, rewritten: pa.Array, with_values: list[int], config: ProtectConfig
) -> pa.Array:
    """The originals, but the repaired text where repair or the rules show values that the original does not: they are
    spelt with entities in it, say, or invisible characters stand between the digits. Only what is seen can be masked."""
    import pyarrow.compute as pc

    kinds = tuple(config.actions)
    changed = pc.indices_nonzero(pc.not_equal(originals, repaired)).to_pylist()
    shown = showing_more(originals, repaired, changed, kinds)
    originals = _put(originals, shown, chosen(repaired, shown))
    shown = showing_more(originals, rewritten, with_values, kinds)
    return _put(originals, shown, repair_column(chosen(rewritten, shown)))  # the rules need not end with a repair


def _put(texts: pa.Array, indices: list[int], others: pa.Array) -> pa.Array:
    """The texts, with the others at these places; the indices ascend."""
    import pyarrow.compute as pc

    mask = np.zeros(len(texts), np.bool_)
    mask[indices] = True
    return pc.replace_with_mask(texts, mask, others)


def _rewrite(
    originals: pa.Array, readable: NDArray[np.bool_], rules: Sequence[Rule], repaired: pa.Array | None = None
) -> tuple[pa.Array, list[list[str]]]:
    """The texts after all rules, and for each document the rules that changed it. What was not read stays as it is.

    `repaired` is what the repair makes of the originals, where that is known already: it costs most of all rules.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    changed_by: list[list[str]] = [[] for _ in readable]
    places = np.flatnonzero(readable).tolist()
    column = originals.filter(readable)
    for i, rule in enumerate(rules):
        known = repaired.filter(readable) if repaired is not None and i == 0 and rule.name == REPAIR else None
        before, column = column, rule.apply(column) if known is None else known
        for row in pc.indices_nonzero(pc.not_equal(before, column)).to_pylist():
            changed_by[places[row]].append(rule.name)
    return pc.replace_with_mask(originals, pa.array(readable), column), changed_by
