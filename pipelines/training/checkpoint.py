"""Resumable checkpoints: DeepSpeed's sharded state from every rank, and our own small record beside it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.artifacts import LossPoint
from cluster.config import StrictModel

TAG = "deepspeed"
RECORD = "record.json"


class Record(StrictModel):
    """What a run knows at a step, beside the engine's state. Data position and learning rate follow from the step."""

    step: int = 0
    """Optimizer steps done."""
    losses: tuple[LossPoint, ...] = ()


def save(engine: Any, record: Record) -> None:
    """Write the checkpoint of this step from all ranks and report it to Ray Train, which keeps the newest ones.

    On a local or shared disk every rank writes into the run's folder; for S3 it writes to a temporary folder that Ray
    Train uploads. A checkpoint counts once all ranks have reported it, so a half-written one is never resumed from.
    """
    import ray.train
    from pyarrow.fs import LocalFileSystem
    from ray.train import CheckpointUploadMode

    run = ray.train.get_context().get_storage()
    name = f"step-{record.step:08d}"
    metrics = {"step": record.step, "loss": record.losses[-1].loss}
    if isinstance(run.storage_filesystem, LocalFileSystem):
        folder = Path(run.experiment_fs_path) / name
        checkpoint = _write(engine, record, folder, run.storage_filesystem)
        ray.train.report(metrics, checkpoint, name, checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD)
        return
    with tempfile.TemporaryDirectory() as temporary:
        ray.train.report(metrics, _write(engine, record, Path(temporary), None), name)


def _write(engine: Any, record: Record, folder: Path, filesystem: Any) -> Any:
    import ray.train

    folder.mkdir(parents=True, exist_ok=True)
    engine.save_checkpoint(str(folder), tag=TAG, save_latest=False)
    if engine.global_rank == 0:
        (folder / RECORD).write_text(record.model_dump_json())
    return ray.train.Checkpoint(str(folder), filesystem)


def restore(engine: Any) -> Record:
    """Load the newest checkpoint into the engine; an empty record when there is none."""
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return Record()
    with checkpoint.as_directory() as folder:
        loaded, _ = engine.load_checkpoint(folder, tag=TAG)
        assert loaded is not None, f"no DeepSpeed state in {checkpoint}"
        return Record.model_validate(json.loads((Path(folder) / RECORD).read_text()))


def weights(engine: Any) -> dict[str, Any]:
    """All weights, whole, on rank 0 (empty elsewhere). Every rank must call it: stage 3 gathers parameter by parameter.

    A tensor under two names (tied embeddings) is one object under both, as transformers expects it for saving.
    """
    whole: dict[str, Any] = {}
    copies: dict[int, Any] = {}
    for name, tensor in engine.module.state_dict(keep_vars=True).items():
        if id(tensor) not in copies:
            with _gathered(tensor):
                copies[id(tensor)] = tensor.detach().cpu().clone() if engine.global_rank == 0 else None
        if engine.global_rank == 0:
            whole[name] = copies[id(tensor)]
    return whole


@contextmanager
def _gathered(tensor: Any) -> Iterator[None]:
    import deepspeed

    with deepspeed.zero.GatheredParameters([tensor], enabled=hasattr(tensor, "ds_id")):
        yield
