"""Checkpoints on their way: the steps go on while each rank writes its part from a copy of its states.

Ray Train's asynchronous reports carry them. Its thread calls what writes and then reports; its controller counts a checkpoint once
all ranks have reported it, and ends the run's workers where writing failed. So nothing is said between ranks, whose collective
operations belong to the steps alone, and a checkpoint of which any rank's part is missing is never resumed from.

DeepSpeed's `decoupled` engine (version 0.19.8) is none of this: it takes no copy, so the next optimizer step waits until all is
written (engine.py, `_commit_decoupled_checkpoint`), and what it writes the same number of ranks alone can read (layout.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, NamedTuple

from pipelines.training import checkpoint
from pipelines.training.checkpoint import Part, Record, Snapshot

LONG_S = 5.0
"""A rank that waits for an earlier checkpoint longer than this says so."""


Report = Callable[[Part, bool], "Future[None]"]
"""Has a part written and Ray Train told of it, from another thread if so asked. What it gives is done once both are."""


class Outstanding(NamedTuple):
    """A checkpoint whose part may not be written yet, or not be reported."""

    step: int
    end: Future[None]


class Saver:
    """Writes this rank's parts of the run's checkpoints, one at a time. Behind the block of `with` all are written.

    Args:
        asynchronous: `train.checkpoint_asynchronously`.
        waiting: entered while the steps stand still for it.
        tell: called with what is waited for, where that takes long.
        report: to Ray Train.
    """

    def __init__(
        self,
        asynchronous: bool,
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
        tell: Callable[[str], object] = str,
        report: Report | None = None,
    ) -> None:
        self._snapshot = Snapshot() if asynchronous else None
        self._waiting, self._tell, self._report = waiting, tell, report or reported
        self._outstanding: Outstanding | None = None

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # Where the rank fails as well: what is whole when the workers start again is not trained once more.
        with self._waiting(), suppress(Exception) if error else nullcontext():
            self._join()

    def save(self, engine: Any, record: Record, *, at_once: bool = False) -> float:
        """Have the checkpoint of this step written. Every rank must call it. Returns the seconds that the steps stood still.

        Args:
            at_once: return when this rank's part is written and reported; without a copy of it.

        Raises:
            Exception: of the checkpoint before, which could not be written. Ray Train has it too, and ends the workers.
        """
        begun = time.monotonic()
        with self._waiting():
            self._join()
            copy = None if at_once else self._snapshot
            part = checkpoint.part(engine, record, copy)
            self._outstanding = Outstanding(record.step, self._report(part, copy is not None))
            if copy is None:
                self._join()
        return time.monotonic() - begun

    def _join(self) -> None:
        """Wait for what is outstanding."""
        before, self._outstanding = self._outstanding, None
        if before is None:
            return
        if wait([before.end], LONG_S).not_done:
            self._tell(f"waiting for the checkpoint of step {before.step} to be written")
            wait([before.end])
            self._tell("")
        before.end.result()


def reported(part: Part, asynchronous: bool) -> Future[None]:
    """Write a part and report it to Ray Train, which keeps the newest ones.

    On a local or shared disk every rank writes into the run's folder; for S3 it writes to a temporary folder that is uploaded.
    """
    import ray.train
    from ray.train import CheckpointUploadMode

    run, record, failures = ray.train.get_context().get_storage(), part.record, list[Exception]()
    # A step that is done again after a way back has another name: the old one may still be there, and be removed later.
    name = f"step-{record.step:08d}" + (f"-{len(record.incidents)}" if record.incidents else "")

    def write(place: Any, name: str) -> Any:
        failures.clear()  # Ray Train tries again where S3 turned it away
        try:
            return _stored(part, run, place, name)
        except Exception as error:
            failures.append(error)
            raise

    ray.train.report(
        checkpoint.told(record),
        ray.train.Checkpoint(run.build_checkpoint_path_from_name(name), run.storage_filesystem),
        name,
        checkpoint_upload_mode=CheckpointUploadMode.ASYNC if asynchronous else CheckpointUploadMode.SYNC,
        checkpoint_upload_fn=write,
        delete_local_checkpoint_after_upload=False,  # it would be the place that was written to
    )
    return _behind_reports(failures)


def _behind_reports(failures: list[Exception]) -> Future[None]:
    """Done when all that was given to Ray Train's one thread for reports is, in which it writes and then waits for its controller
    to take the report. There is no public call to wait for that."""
    from ray.train.v2._internal.execution.context import get_train_context

    def end() -> None:
        if failures:
            raise failures[0]

    return get_train_context().checkpoint_upload_threadpool.submit(end)


def _stored(part: Part, run: Any, place: Any, name: str) -> Any:
    """The checkpoint of that name, with this part in it."""
    import ray.train
    from pyarrow.fs import LocalFileSystem

    if isinstance(run.storage_filesystem, LocalFileSystem):
        Path(place.path).mkdir(parents=True, exist_ok=True)
        part.write(Path(place.path))
        return place
    with TemporaryDirectory() as temporary:
        part.write(Path(temporary))
        return run.persist_current_checkpoint(ray.train.Checkpoint(temporary), name)
