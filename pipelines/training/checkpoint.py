"""Resumable checkpoints: every rank writes its slices of the state, and any number of ranks goes on from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

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
    """Drawn by all ranks in these steps, and while checkpoints were written, as energy.py measures it; None where a part of the run
    was not measured, or by other counters."""
    energy_basis: str | None = None
    """By which."""

    def drawn(self, joules: float | None, basis: str | None) -> float | None:
        """`energy_j` with what one more step drew by those counters."""
        if self.step == 0:
            return joules
        return None if joules is None or self.energy_j is None or basis != self.energy_basis else self.energy_j + joules


def told(record: Record) -> dict[str, Any]:
    """What Ray Train's list says of a checkpoint; `Reported.kept` reads it."""
    return {"step": record.step, "loss": record.losses[-1].loss, "num_incidents": len(record.incidents)}


class Part(NamedTuple):
    """What one rank writes of a checkpoint. It needs no engine: whose states are views of a copy can be written later."""

    rank: int
    record: Record
    """Which rank 0 writes."""
    slices: Callable[[], Iterable[tuple[Slice, Values]]]
    """From the first one on at each call: an upload is tried again."""

    def write(self, folder: Path) -> None:
        """Into that folder, which is there."""
        slices.write(folder, self.rank, self.slices())
        if self.rank == 0:
            with open(folder / RECORD, "wb") as file:
                file.write(self.record.model_dump_json().encode())
                slices.settle(file)


def part(engine: Any, record: Record, copy: Snapshot | None = None) -> Part:
    """This rank's, of this step: of the states themselves, or of a copy of them that is taken now."""
    record = record.replace(num_files=engine.world_size)
    if copy is None:
        return Part(engine.global_rank, record, lambda: _values(engine))
    taken = copy.take(_own_slices(engine))
    return Part(engine.global_rank, record, lambda: taken)


def write(engine: Any, record: Record, folder: Path) -> None:
    """Write this rank's part of the state into `folder`, and the record on rank 0."""
    part(engine, record).write(folder)


def _own_slices(engine: Any) -> Iterator[tuple[Slice, Any]]:
    """With the tensor that holds it, wherever that lies."""
    if engine.zero_optimization_stage() == 0 and parallel.replica(engine)[0] > 0:
        return  # the first copy has the same
    states = layout.states(engine)
    for master in layout.masters(engine):
        flats = {"weights": master.tensor.detach(), **states.get(master.tensor, {})}
        for piece in (piece for piece in master.pieces if not piece.is_spare):
            for kind in slices.KINDS:
                yield _slice(piece, kind), flats[kind].view(-1)[piece.at : piece.at + piece.num]


def _values(engine: Any) -> Iterator[tuple[Slice, Values]]:
    """One at a time, in the states' own memory where that is float32 on the host."""
    for one, values in _own_slices(engine):
        yield one, values.float().cpu().numpy()


class Snapshot:
    """A copy of a rank's states in the host's memory, one at a time.

    Its memory is kept for the next one: to touch new pages takes several times as long as to copy into old ones (0.8 GB on a CPU
    core: 0.34 s, then 0.06 s).
    """

    def __init__(self) -> None:
        self._memory: Any = None

    def take(self, tensors: Iterable[tuple[Slice, Any]]) -> list[tuple[Slice, Values]]:
        """Copies of them, whole when this returns; those of the time before are no more."""
        import torch

        found = list(tensors)
        num = sum(one.num for one, _ in found)
        if self._memory is None or len(self._memory) != num:
            self._memory = torch.empty(num, dtype=torch.float32)
        copies, at = list[tuple[Slice, Values]](), 0
        for one, values in found:
            copy = self._memory[at : at + one.num]
            copies.append((one, copy.copy_(values).numpy()))
            at += one.num
        return copies


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
    return _read_reported(engine, checkpoint)


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
        with self._reading():
            return _read_reported(engine, self._found[place].checkpoint)


def _read_reported(engine: Any, checkpoint: Any) -> Record:
    """One of Ray Train's. Of one in a bucket the folder is a copy, of which nobody needs to know."""
    import torch.distributed as dist
    from pyarrow.fs import LocalFileSystem

    is_copied = not isinstance(checkpoint.filesystem, LocalFileSystem)
    with checkpoint.as_directory() as folder:
        if is_copied:
            # All ranks of a node have one copy, and who comes later than the first writes it once more: into files that
            # others have mapped, were they to read already.
            dist.barrier()
        return read(engine, Path(folder), f"s3://{checkpoint.path}" if is_copied else checkpoint.path)


def read(engine: Any, folder: Path, name: str = "") -> Record:
    """Load the checkpoint in `folder`, by however many ranks it was written, into the engine. Every rank must call it.

    Args:
        name: by which people know that folder; empty: by its path.

    Raises:
        InputError: it is damaged, or of another model; on all ranks, whichever has found it.
    """
    record = in_common(partial(_fill, engine, folder, name or str(folder)))
    layout.publish(engine)
    return record


def _fill(engine: Any, folder: Path, name: str) -> Record:
    """Masters and optimizer states of this rank."""
    remedy = f"remove {name} and run again: the run goes on from the checkpoint before it"
    record = _read_record(folder, name, remedy)
    reader = slices.Reader(folder, record.num_files, remedy, name)
    for number in range(engine.global_rank, record.num_files, engine.world_size):
        reader.verify(number)
    states = layout.states(engine)
    for master in layout.masters(engine):
        states[master.tensor] = _read_master(reader, master, record.step)
    return record


def _read_record(folder: Path, name: str, remedy: str) -> Record:
    try:
        return Record.model_validate_json((folder / RECORD).read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{name}/{RECORD}", f"cannot be read ({type(error).__name__})", remedy) from None


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
