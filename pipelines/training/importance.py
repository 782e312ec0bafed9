"""Fisher's diagonal as it is kept with a trained model, for the next run of a chain (consolidation.py).

Every rank writes its slices, and any number of ranks reads those that it then needs, at whatever ZeRO stage: the files are
those of a checkpoint (slices.py), 4 bytes a parameter over all ranks.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from cluster.artifacts import FileEntry, file_entries
from cluster.storage import Storage, filesystem_to_write, remove_folder
from pipelines.training import layout, slices
from pipelines.training.slices import FISHER, Slice

FOLDER = "importance"
"""In the trained model's artifact."""
REMEDY = "train that model again (`--from train`), or give the checkpoint whose model this run begins with"


class Earlier(NamedTuple):
    """The diagonal of an earlier run."""

    folder: Path
    num_files: int
    """Ranks that wrote it."""
    decay: float
    """What it counts for now."""

    def add_to(self, fisher: dict[Any, Any], engine: Any) -> None:
        """fisher += decay x earlier, on this rank's values. Every rank must call it.

        Raises:
            InputError: it is damaged, or of another model.
        """
        import torch

        reader = slices.Reader(self.folder, self.num_files, REMEDY)
        for number in range(engine.global_rank, self.num_files, engine.world_size):
            reader.verify(number)
        for master in layout.masters(engine):
            flat = fisher[master.tensor].view(-1)
            for piece in master.pieces:
                values = torch.from_numpy(reader.read(_slice(piece))).to(flat.device)
                flat[piece.at : piece.at + piece.num].add_(values, alpha=self.decay)


def write(engine: Any, fisher: dict[Any, Any], folder: Path) -> None:
    """Write this rank's part into `folder`."""
    slices.write(
        folder,
        engine.global_rank,
        (
            (_slice(piece), fisher[master.tensor].view(-1)[piece.at : piece.at + piece.num].cpu().numpy())
            for master in layout.masters(engine)
            for piece in master.pieces
            if not piece.is_spare
        ),
    )


def keep(engine: Any, fisher: dict[Any, Any], storage: Storage, key: str) -> tuple[FileEntry, ...]:
    """Write the diagonal from all ranks to the storage folder `key`. Every rank must call it.

    Returns:
        All ranks' files, on every rank.
    """
    import torch.distributed as dist

    if engine.global_rank == 0:
        remove_folder(storage, key)  # an attempt that was killed may have had more ranks
    dist.barrier()
    with tempfile.TemporaryDirectory() as temporary:
        write(engine, fisher, Path(temporary))
        own = file_entries(Path(temporary), FOLDER)
        _copy(Path(temporary), storage, key)
    found: list[Any] = [None] * engine.world_size
    dist.all_gather_object(found, own)
    return tuple(entry for entries in found for entry in entries)


def _copy(folder: Path, storage: Storage, key: str) -> None:
    import pyarrow.fs

    filesystem, path = filesystem_to_write(storage, key)
    filesystem.create_dir(path, recursive=True)
    pyarrow.fs.copy_files(str(folder), path, pyarrow.fs.LocalFileSystem(), filesystem)


def num_files(files: tuple[FileEntry, ...]) -> int:
    """Ranks that wrote the diagonal of a model with those files; 0 where none is kept."""
    return sum(file.path.startswith(f"{FOLDER}/") and file.path.endswith(".bin") for file in files)


def _slice(piece: layout.Piece) -> Slice:
    return Slice(piece.name, FISHER, piece.start, piece.num, piece.columns)
