"""The clean stage in a process of its own, on a private cluster; to be killed. Prints the dataset's digest."""

from __future__ import annotations

import sys

from cluster.session import joined
from cluster.storage import open_storage
from pipelines.config import DedupConfig
from pipelines.data import clean as stage
from tests.unit.pipelines.data import world

if __name__ == "__main__":
    uri, folder, block_bytes = sys.argv[1:]
    stage.BLOCK_BYTES = int(block_bytes)
    dedup = DedupConfig(lines={"max_occurrences": 25})
    with joined():
        config = world.config(folder, documents_per_shard=200, dedup=dedup)
        print(stage.clean(config, open_storage(uri)).digest)
