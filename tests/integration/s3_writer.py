"""One of two writers: cleans a folder once, then writes it under each key that it reads, and says whether it won."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa

from cluster.storage import open_storage
from pipelines.data import clean as stage
from pipelines.data.duplicates import joined, link, shards_of, tasks
from pipelines.data.record import save_both
from pipelines.data.shards import write_shard
from pipelines.data.work import cleaner_of, prepare
from tests.unit.pipelines.data import world


def main(uri: str, folder: str) -> None:
    storage = open_storage(uri)
    work = prepare(world.config(Path(folder)), storage)
    items = stage.parts_of(work.files)
    blocks = list(cleaner_of(work)({name: [item[name] for item in items] for name in ("file", "part")}))
    stripped, keys = zip(*(stage.strip(number, block) for number, block in enumerate(blocks)), strict=True)
    documents = pa.concat_tables(stripped).sort_by([("file", "ascending"), ("ordinal", "ascending")])
    todo = tasks(work.config.dedup, range(len(keys)), len(documents), storage.uri, shards_of(work.earlier))
    links = joined([link(task, *keys) for task in todo], documents)
    decisions, shards = stage.settle(documents, links, work, storage)
    print("ready", flush=True)
    for key in map(str.strip, sys.stdin):
        mine = work._replace(key=key)
        target = stage.target_of(mine, storage)
        written = [write_shard(target, shard, *(blocks[b] for b in shard.blocks)) for shard in shards]
        dataset = stage.outcome(mine, documents, decisions, written)
        saved = save_both(storage, dataset, [shard.record for shard in written])
        won = saved.made_at == dataset.made_at
        if won:
            stage.finish(storage, saved)
        print("won" if won else "lost", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
