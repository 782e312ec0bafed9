"""Resumable checkpoints: every rank writes its slices of the state, and any number of ranks goes on from them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from cluster.artifacts import Incident, LossPoint
from cluster.config import StrictModel
from cluster.errors import InputError
from pipelines.training import layout, parallel, pipeline, slices
from pipelines.training.common import in_common
from pipelines.training.guard import Kept
from pipelines.training.slices import Slice, Values

RECORD = "record.json"


class Record(StrictModel):
    """What a run knows at a step, beside weights and moments. Data position and learning rate follow from it."""

    step: int = 0
    """Optimizer steps done."""
    num_files: int = 0
    """Ranks that wrote the checkpoint."""
    losses: tuple[LossPoint, ...] = ()
    skipped: tuple[int, ...] = ()
    """Numbers of the steps' data that were left out (guard.py)."""
    incidents: tuple[Incident, ...] = ()
    trained_s: float = 0.0
    """Spent in the steps that stand, over all starts of the run."""
    energy_j: float | None = None
    """Drawn meanwhile by all ranks, as energy.py measures it; None where a part of the run was not measured."""

    def drawn(self, joules: float | None) -> float | None:
        """`energy_j` with what one more step drew."""
        before = 0.0 if self.step == 0 else self.energy_j
        return None if joules is None or before is None else before + joules


def save(engine: Any, record: Record) -> None:
    """Write the checkpoint of this step from all ranks and report it to Ray Train, which keeps the newest ones.

    On a local or shared disk every rank writes into the run's folder; for S3 it writes to a temporary folder that Ray
    Train uploads. A checkpoint counts once all ranks have reported it, so a half-written one is never resumed from.
    """
    import ray.train
    from pyarrow.fs import LocalFileSystem
    from ray.train import CheckpointUploadMode

    run = ray.train.get_context().get_storage()
    # A step that is done again after a way back has another name: the old one may still be there, and be removed later.
    name = f"step-{record.step:08d}" + (f"-{len(record.incidents)}" if record.incidents else "")
    metrics = {"step": record.step, "loss": record.losses[-1].loss, "num_incidents": len(record.incidents)}
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
    write(engine, record, folder)
    return ray.train.Checkpoint(str(folder), filesystem)


def write(engine: Any, record: Record, folder: Path) -> None:
    """Write this rank's part of the state into `folder`, and the record on rank 0."""
    slices.write(folder, engine.global_rank, _own_slices(engine))
    if engine.global_rank == 0:
        (folder / RECORD).write_text(record.replace(num_files=engine.world_size).model_dump_json())


def _own_slices(engine: Any) -> Iterator[tuple[Slice, Values]]:
    if engine.zero_optimization_stage() == 0 and parallel.replica(engine)[0] > 0:
        return  # the first copy has the same
    states = layout.states(engine)
    for master in layout.masters(engine):
        flats = {"weights": master.tensor.detach(), **states.get(master.tensor, {})}
        for piece in (piece for piece in master.pieces if not piece.is_spare):
            for kind in slices.KINDS:
                values = flats[kind].view(-1)[piece.at : piece.at + piece.num]
                yield _slice(piece, kind), values.float().cpu().numpy()


def _slice(piece: layout.Piece, kind: str) -> Slice:
    return Slice(piece.name, kind, piece.start, piece.num, piece.columns)


def restore(engine: Any) -> Record:
    """Load the newest checkpoint into the engine; an empty record when there is none. Every rank must call it.

    Raises:
        InputError: it is damaged, or of another model; on all ranks.
    """
    import ray.train

    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return Record()
    with checkpoint.as_directory() as folder:
        return read(engine, Path(folder))


class Reported:
    """The run's checkpoints as Ray Train has them: those of all ranks, the newest few.

    Args:
        reading: entered while one is waited for or read, which may take long.
    """

    def __init__(self, reading: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        self._reading, self._found = reading, list[Any]()

    def kept(self) -> list[Kept]:
        """In the order in which they were written. Waits for those that are on their way."""
        import ray.train
        from ray.train import CheckpointConsistencyMode

        with self._reading():
            self._found = ray.train.get_all_reported_checkpoints(CheckpointConsistencyMode.COMMITTED)
        return [Kept(one.metrics["step"], one.metrics["num_incidents"]) for one in self._found]

    def read(self, engine: Any, place: int) -> Record:
        """Load the one at that place of what `kept` gave into the engine. Every rank must call it."""
        with self._reading(), self._found[place].checkpoint.as_directory() as folder:
            return read(engine, Path(folder))


def read(engine: Any, folder: Path) -> Record:
    """Load the checkpoint in `folder`, by however many ranks it was written, into the engine. Every rank must call it.

    Raises:
        InputError: it is damaged, or of another model; on all ranks, whichever has found it.
    """
    record = in_common(partial(_fill, engine, folder))
    layout.publish(engine)
    return record


def _fill(engine: Any, folder: Path) -> Record:
    """Masters and optimizer states of this rank."""
    record = _read_record(folder)
    reader = slices.Reader(folder, record.num_files)
    for number in range(engine.global_rank, record.num_files, engine.world_size):
        reader.verify(number)
    states = layout.states(engine)
    for master in layout.masters(engine):
        states[master.tensor] = _read_master(reader, master, record.step)
    return record


def _read_record(folder: Path) -> Record:
    try:
        return Record.model_validate_json((folder / RECORD).read_bytes())
    except (OSError, ValueError) as error:
        found = f"cannot be read ({type(error).__name__})"
        raise InputError(f"{folder}/{RECORD}", found, "remove the run's whole folder and run again") from None


def _read_master(reader: slices.Reader, master: layout.Master, step: int) -> dict[str, Any]:
    """Fill the master tensor with its weights, and give the torch optimizer's state of it."""
    import torch

    state = {kind: torch.zeros_like(master.tensor, requires_grad=False) for kind in slices.KINDS[1:]}
    flats = {"weights": master.tensor.detach(), **state}
    for piece in master.pieces:
        for kind, flat in flats.items():
            values = reader.read(_slice(piece, kind))
            flat.view(-1)[piece.at : piece.at + piece.num].copy_(torch.from_numpy(values))
    return {"step": torch.tensor(float(step)), **state}


def weights(engine: Any) -> dict[str, Any]:
    """All weights, whole, on rank 0 (empty elsewhere). Every rank must call it: they are gathered parameter by parameter.

    A tensor under two names (tied embeddings) is one object under both, as transformers expects it for saving.
    """
    if hasattr(engine, "stages"):
        return pipeline.gathered(engine)
    whole: dict[str, Any] = {}
    copies: dict[int, Any] = {}
    for name, tensor in engine.module.state_dict(keep_vars=True).items():
        if id(tensor) not in copies:
            with _gathered(tensor):
                one = parallel.assembled(tensor)
                copies[id(tensor)] = one.cpu().clone() if engine.global_rank == 0 else None
        if engine.global_rank == 0:
            whole[name] = copies[id(tensor)]
    return whole


@contextmanager
def _gathered(tensor: Any) -> Iterator[None]:
    import deepspeed

    with deepspeed.zero.GatheredParameters([tensor], enabled=hasattr(tensor, "ds_id")):
        yield
