"""A training whose storage is a bucket, in a process whose environment leads there: `python -m tests.chaos.bucket_driver URI FOLDER
MODEL`. It is broken off; its newest checkpoint is cut short, and then removed; it ends from the one before. Prints that in JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from cluster.errors import StageFailed, UserError
from cluster.session import joined
from cluster.storage import LocalStorage, Storage, open_storage, remove_folder
from pipelines.training import fit
from pipelines.training.checkpoint_list import SNAPSHOT
from pipelines.training.train import train
from tests.integration.training_case import base_model, chaos_run, ends_early, small_dataset

MARKS = "SERINUS_TEST_MARKS"
"""A folder for what ranks tell each other."""
LATE_S = 3.0


def late(given: dict[str, Any]) -> dict[str, Any]:
    """The train stage's worker, whose rank 1 comes later than the other to a checkpoint, and fetches it once more."""
    import ray.train
    from ray.train import Checkpoint

    from pipelines.training import checkpoint, loop

    rank, mark = ray.train.get_context().get_world_rank(), Path(os.environ[MARKS]) / "fetched"
    fetch, fill = Checkpoint.to_directory, checkpoint._fill
    ray_s: Any = Checkpoint
    ours: Any = checkpoint

    def fetched(self: Any, path: Any = None) -> str:
        if rank == 1:
            time.sleep(LATE_S)
        found: str = fetch(self, path)
        if rank == 1:
            mark.touch()
        return found

    def filled(*asked: Any) -> Any:
        assert mark.exists(), "a rank reads while another writes what it reads"
        return fill(*asked)

    ray_s.to_directory, ours._fill = fetched, filled
    return loop.worker(given)


def copied(local: LocalStorage, bucket: Storage) -> None:
    for key in local.list("artifacts"):
        blob = local.read(key)
        assert blob is not None
        bucket.write(key, blob.content)


def noted(storage: Storage) -> str:
    """Folder of the newest checkpoint that Ray Train has taken note of."""
    (key,) = (key for key in storage.list("runs/train") if key.endswith(SNAPSHOT))
    blob = storage.read(key)
    assert blob is not None
    return f"{key.rpartition('/')[0]}/{json.loads(blob.content)['latest_checkpoint_result']['checkpoint_dir_name']}"


def main(uri: str, folder: str, model: str) -> None:
    local, storage = LocalStorage(folder), open_storage(uri)
    dataset, base = small_dataset(local), base_model(local, Path(model))
    copied(local, storage)
    here: Any = fit
    worker, config, told = here.worker, chaos_run(max_failures=0), dict[str, Any]()
    with joined():
        here.worker = ends_early
        try:
            train(config, dataset, base, storage)
        except StageFailed as ended:
            told["ended"] = str(ended)
        here.worker = worker
        newest = told["newest"] = noted(storage)
        storage.write(f"{newest}/1.bin", b"half of")
        try:
            train(config, dataset, base, storage)
        except UserError as refused:
            told["refused"] = str(refused)
        for place in {key.rpartition("/")[0] for key in storage.list("runs/train")}:
            if newest <= place:  # what was written behind it had not been reported by all
                remove_folder(storage, place)
        here.worker = late
        told["made"] = train(config, dataset, base, storage).model_dump(mode="json")
        told["events"] = list(storage.list("runs/tensorboard"))
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
