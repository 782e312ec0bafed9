"""A dataset of CPython's documentation topics with two splits; no tests in here."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.artifacts import Dataset, save
from cluster.storage import LocalStorage


def topics_dataset(storage: LocalStorage) -> Dataset:
    """Ten topics to train on and six held out."""
    from pydoc_data.topics import topics

    names = sorted(topics)
    made = Dataset(key="d" * 16)
    for part, chosen in (("train", names[10:20]), ("heldout", names[:6])):
        folder = storage.root / made.location / part
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"id": chosen, "text": [topics[n] for n in chosen]}), folder / "part-0.parquet")
    return save(storage, made)
