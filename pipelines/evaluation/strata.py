"""The languages and domains that items come from, by which a gate may ask, and how long they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cluster.artifacts import Dataset
from cluster.storage import Storage
from pipelines.evaluation.items import Item, Row


def placed(items: Sequence[Item], storage: Storage, dataset: Dataset) -> list[Item]:
    """Items built from held-out documents, with their document's language and domain."""
    strata = _of_documents(storage, dataset)
    unknown = ("", "")
    found = [strata.get(item.id.rpartition("@")[0], unknown) for item in items]
    return [
        replace(item, language=language, domain=domain) for item, (language, domain) in zip(items, found, strict=True)
    ]


def with_strata(items: Sequence[Item], rows: Sequence[Row]) -> list[Row]:
    """Each row with what its item says of itself."""
    strata = {(item.task, item.id): _strata(item) for item in items}
    return [{**row, **strata[row["task"], row["id"]]} for row in rows]


def _strata(item: Item) -> Row:
    length = len(item.prompt) or len(item.answers[item.gold] if item.answers else "")
    return {"language": item.language, "domain": item.domain, "num_prompt_characters": length}


def _of_documents(storage: Storage, dataset: Dataset) -> dict[str, tuple[str, str]]:
    """Id of each held-out document -> its language and which of the recipe's sources it is from, as far as on record."""
    import pyarrow.parquet as pq

    found: dict[str, tuple[str, str]] = {}
    for key in storage.list(f"{dataset.location}/heldout"):
        if key.endswith(".parquet"):
            filesystem, path = storage.filesystem(key)
            stored = set(pq.read_schema(path, filesystem=filesystem).names)
            names = [name for name in ("id", "language", "source") if name in stored]
            for row in pq.read_table(path, columns=names, filesystem=filesystem).to_pylist():
                found[row["id"]] = row.get("language") or "", (row.get("source") or "").partition("/")[0]
    return found
