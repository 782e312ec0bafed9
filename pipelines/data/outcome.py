"""What a cleaning came to, counted: the manifest of the dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from cluster.artifacts import Dataset, Source
from pipelines.config import DataConfig
from pipelines.data.decide import EXCLUDED, HELDOUT, TRAIN, Decision
from pipelines.data.filters import CHEAP_FILTERS
from pipelines.data.inventory import SourceFile
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
    decisions: Sequence[Decision],
    written: Sequence[Written],
    *,
    config: DataConfig,
    files: Sequence[SourceFile],
    recorded: dict[str, Any],
    key: str,
) -> Dataset:
    """Of the dataset, not yet saved. Documents in are documents kept and excluded, or we have lost some."""
    splits = Counter(decision.split for decision in decisions)
    reasons = Counter(decision.reason for decision in decisions if decision.split == EXCLUDED)
    changed = Counter(name for names in documents["changed_by"].to_pylist() for name in names)
    lengths = zip(documents["num_characters"].to_pylist(), decisions, strict=True)
    dataset = Dataset(
        key=key,
        config=recorded,
        files=tuple(shard.entry for shard in written),
        batches=tuple(shard.batch for shard in written),
        sources=tuple(Source(path=file.name, num_bytes=file.num_bytes, sha256=file.sha256) for file in files),
        rules=(
            *(rule.name for rule in config.rules),
            *FILTER_NAMES,
            *(("decontaminate",) if config.decontaminate else ()),
        ),
        rules_digest=rules_digest(recorded),
        num_documents=len(documents),
        num_train=splits[TRAIN],
        num_heldout=splits[HELDOUT],
        num_excluded_by_reason=dict(sorted(reasons.items())),
        num_changed_by_rule={rule.name: changed[rule.name] for rule in config.rules},
        num_protected_by_kind=_protected(documents, decisions) if config.protect.actions else {},
        num_characters_in=sum(documents["num_characters_in"].to_pylist()),
        num_characters_kept=sum(length for length, decision in lengths if decision.split != EXCLUDED),
    )
    return checked(dataset)


def checked(dataset: Dataset) -> Dataset:
    assert dataset.num_documents == dataset.num_kept + dataset.num_excluded
    assert dataset.num_documents == sum(batch.num_documents for batch in dataset.batches)
    return dataset


def _protected(documents: pa.Table, decisions: Sequence[Decision]) -> dict[str, int]:
    """Values that were masked or hashed in the kept documents."""
    rows = zip(documents["protected"].to_pylist(), decisions, strict=True)
    return num_by_kind(spans for spans, decision in rows if decision.split != EXCLUDED)


def num_by_kind(protected: Iterable[Sequence[dict[str, Any]]]) -> dict[str, int]:
    """Values by kind, of the column `protected`."""
    return dict(sorted(Counter(span["kind"] for spans in protected for span in spans).items()))
