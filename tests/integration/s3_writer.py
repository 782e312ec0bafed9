"""One of two writers: cleans a folder once, then writes it under each key that it reads, and says whether it won."""

from __future__ import annotations

import sys
from pathlib import Path

from cluster.storage import open_storage
from pipelines.data import clean as stage
from pipelines.data.record import save_both
from pipelines.data.settle import outcome
from pipelines.data.shards import write_shard
from pipelines.data.work import prepare
from tests.unit.pipelines.data import world


def main(uri: str, folder: str) -> None:
    storage = open_storage(uri)
    work = prepare(world.config(Path(folder)), storage)
    judge = stage.judge_of(work, storage)
    settled = world.settled_here(list(judge({"stretch": range(len(judge.stretches))})), judge.blocks, work, storage)
    print("ready", flush=True)
    for key in map(str.strip, sys.stdin):
        mine = work._replace(key=key)
        target = stage.target_of(mine, storage)
        written = [write_shard(target, shard, judge.blocks) for shard in settled.shards]
        dataset = outcome(mine, settled, written)
        saved = save_both(storage, dataset, [shard.record for shard in written])
        won = saved.made_at == dataset.made_at
        if won:
            stage.finish(storage, saved)
        print("won" if won else "lost", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
