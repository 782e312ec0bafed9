"""The clean stage in a process of its own, on a private cluster; to be killed. Prints the dataset's digest."""

from __future__ import annotations

import sys

from cluster.session import joined
from cluster.storage import open_storage
from pipelines.data import clean as stage
from tests.unit.pipelines.data import world

if __name__ == "__main__":
    uri, folder, block_bytes = sys.argv[1:]
    stage.BLOCK_BYTES = int(block_bytes)
    with joined():
        print(stage.clean(world.config(folder, documents_per_shard=200), open_storage(uri)).digest)
