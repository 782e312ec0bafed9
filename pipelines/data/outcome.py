"""What a cleaning came to, counted: the manifest of the dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cluster.artifacts import Dataset, Repeated, Source
from pipelines.config import DataConfig
from pipelines.data.decide import EXCLUDED, HELDOUT, TRAIN
from pipelines.data.filters import CHEAP_FILTERS
from pipelines.data.inventory import SourceFile
from pipelines.data.record import REPEATED
from pipelines.data.recorded import rules_digest
from pipelines.data.shards import Written

if TYPE_CHECKING:
    import pyarrow as pa

FILTER_NAMES = (
    *(check.__name__ for check in CHEAP_FILTERS),
    "language",
    "stop_words",
    "exact_duplicates",
    "near_duplicates",
)


def manifest(
    documents: pa.Table,
    decided: pa.Table,
    written: Sequence[Written],
    *,
    config: DataConfig,
    files: Sequence[SourceFile],
    recorded: dict[str, Any],
    key: str,
) -> Dataset:
    """Of the dataset, not yet saved. Documents in are documents kept and excluded, or we have lost some."""
    import pyarrow.compute as pc

    splits, reasons = num_by_value(decided["split"]), num_by_value(decided["reason"])
    changed = num_by_value(pc.list_flatten(documents["changed_by"]))
    kept = documents.filter(pc.not_equal(decided["split"], EXCLUDED))
    repeated_rules = [f"repeated_{name}" for name in config.dedup.repeats]
    dataset = Dataset(
        key=key,
        config=recorded,
        files=tuple(shard.entry for shard in written),
        batches=tuple(shard.batch for shard in written),
        sources=tuple(Source(path=file.name, num_bytes=file.num_bytes, sha256=file.sha256) for file in files),
        rules=(
            *(rule.name for rule in config.rules),
            *FILTER_NAMES,
            *repeated_rules,
            *(("decontaminate",) if config.decontaminate else ()),
        ),
        rules_digest=rules_digest(recorded),
        num_documents=len(documents),
        num_train=splits.get(TRAIN, 0),
        num_heldout=splits.get(HELDOUT, 0),
        num_excluded_by_reason={reason: num for reason, num in reasons.items() if reason},
        num_changed_by_rule={
            name: changed.get(name, 0) for name in (*(rule.name for rule in config.rules), *repeated_rules)
        },
        num_protected_by_kind=num_protected(kept) if config.protect.actions else {},
        num_characters_in=pc.sum(documents["num_characters_in"]).as_py() or 0,
        num_characters_kept=pc.sum(kept["num_characters"]).as_py() or 0,
        repeated=num_repeated(kept) if repeated_rules else None,
    )
    return checked(dataset)


def checked(dataset: Dataset) -> Dataset:
    assert dataset.num_documents == dataset.num_kept + dataset.num_excluded
    assert dataset.num_documents == sum(batch.num_documents for batch in dataset.batches)
    return dataset


def num_protected(documents: pa.Table) -> dict[str, int]:
    """Values by kind, of the column `protected`."""
    import pyarrow.compute as pc

    return num_by_value(pc.struct_field(pc.list_flatten(documents["protected"]), "kind"))


def num_repeated(documents: pa.Table) -> Repeated:
    """What these documents lost, of the columns record.REPEATED."""
    import pyarrow.compute as pc

    lines, paragraphs, characters = (pc.sum(documents[name]).as_py() or 0 for name in REPEATED)
    return Repeated(num_lines=lines, num_paragraphs=paragraphs, num_characters=characters)


def num_by_value(values: pa.ChunkedArray) -> dict[str, int]:
    """Sorted by value."""
    counted = values.value_counts().to_pylist()
    return dict(sorted((entry["values"], entry["counts"]) for entry in counted))
