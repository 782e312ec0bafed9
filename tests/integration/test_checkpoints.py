"""Checkpoints that are written while the steps go on, under Ray Train on two CPU ranks; the steps say what came before what."""

from __future__ import annotations

import os
import resource
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import StageFailed
from cluster.storage import LocalStorage
from pipelines.training import fit
from pipelines.training.train import train
from tests.chaos.training_world import registered, wait_for
from tests.integration.training_case import base_model, golden_losses, small_dataset, small_run

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(600)]

PATIENCE_S = 120.0
Write = Callable[[Path, int, Any], None]


def written_by(write: Callable[[Write, Path, int, Any], None]) -> None:
    """Have a rank's files written by that function, which is given what else would write them."""
    from pipelines.training import slices

    before, here = slices.write, slices
    here.write = lambda folder, rank, parts: write(before, folder, rank, parts)  # type: ignore[assignment]


def held_back(given: dict[str, Any]) -> dict[str, Any]:
    """The train stage's worker. The checkpoint of step 3 is written once step 5 is done, that of step 6 once step 7 is; in the
    middle of that one's file, once, rank 1 is killed."""
    from pipelines.training import loop, train_steps

    root, done = Path(given["plan"]["storage"]), [threading.Event() for _ in range(9)]
    take, here = train_steps.optimizer_step, train_steps

    def noted(engine: Any, batches: Any, step: int, *args: Any) -> Any:
        result = take(engine, batches, step, *args)
        done[step + 1].set()
        return result

    def held(write: Write, folder: Path, rank: int, parts: Any) -> None:
        step = int(folder.name.removeprefix("step-"))
        assert done[{3: 5, 6: 7}[step]].wait(PATIENCE_S), "the steps wait for the checkpoint"
        if (step, rank) == (6, 1) and not (root / "killed").exists():
            wait_for(lambda: registered(LocalStorage(str(root)), 3), "the checkpoint before")
            (folder / "1.bin").write_bytes(b"half of")
            (root / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        write(folder, rank, parts)

    here.optimizer_step = noted  # type: ignore[assignment]
    written_by(held)
    return loop.worker(given)


def test_steps_go_on_while_one_is_written_and_who_is_killed_meanwhile_goes_on_from_the_one_before(
    storage: LocalStorage, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_run(checkpoint_every_steps=3, max_failures=1)
    at_once, other = config.replace(checkpoint_asynchronously=False), LocalStorage(str(tmp_path / "other"))
    undisturbed = train(at_once, small_dataset(other), base_model(other, tiny_model), other)

    monkeypatch.setattr(fit, "worker", held_back)
    made = train(config, small_dataset(storage), base_model(storage, tiny_model), storage)
    assert (storage.root / "killed").exists()
    assert made.resumed_at_steps == (3,)
    assert made.losses == undisturbed.losses, "bit for bit"
    assert [point.loss for point in made.losses] == pytest.approx(golden_losses(), rel=1e-3)


def without_room(given: dict[str, Any]) -> dict[str, Any]:
    """The train stage's worker, whose rank 1 may write no file of more than a few bytes: the system refuses it."""
    from pipelines.training import loop

    def limited(write: Write, folder: Path, rank: int, parts: Any) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        if rank == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
        try:
            write(folder, rank, parts)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    written_by(limited)
    return loop.worker(given)


@pytest.mark.parametrize("asynchronously", [True, pytest.param(False, marks=pytest.mark.long)])
def test_one_that_cannot_be_written_ends_the_run_with_the_reason(
    storage: LocalStorage, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, asynchronously: bool
) -> None:
    monkeypatch.setattr(fit, "worker", without_room)
    config = small_run(checkpoint_every_steps=3, max_failures=0, checkpoint_asynchronously=asynchronously)
    told = r"train: the workers failed for good \(OSError: \[Errno 27\] File too large\); checkpoints are kept in "
    with pytest.raises(StageFailed, match=told):
        train(config, small_dataset(storage), base_model(storage, tiny_model), storage)
