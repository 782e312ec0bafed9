"""What is written is the step that was asked for, whatever later steps do meanwhile; one checkpoint at a time is on its way."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from cluster.artifacts import LossPoint
from pipelines.training import checkpoint, layout, parallel, saving
from pipelines.training.checkpoint import Part, Record, Snapshot, part
from pipelines.training.saving import Saver
from pipelines.training.slices import KINDS, Reader, Slice

PATIENCE_S = 30.0


class Ray:
    """Writes parts as Ray Train does: one thread, one behind the other; each waits until it is let."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.let, self.fails = folder, threading.Semaphore(0), False
        self.done: list[int] = []
        self._thread = ThreadPoolExecutor(1)

    def __call__(self, part: Part, asynchronous: bool) -> Future[None]:
        if not asynchronous:
            self.let.release()
        return self._thread.submit(self._write, part)

    def _write(self, part: Part) -> None:
        assert self.let.acquire(timeout=PATIENCE_S)
        if self.fails:
            raise OSError("no room")
        folder = self.folder / str(part.record.step)
        folder.mkdir()
        part.write(folder)
        self.done.append(part.record.step)

    def weights(self, step: int) -> list[float]:
        return Reader(self.folder / str(step), 1).read(Slice("weight", "weights", 0, 6)).tolist()


@pytest.fixture
def ray(tmp_path: Path) -> Ray:
    return Ray(tmp_path)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """One rank, at stage 0 in float32: what it steps are the model's own weights."""
    import torch

    monkeypatch.setattr(parallel, "replica", lambda engine: (0, 1))
    module = torch.nn.Linear(3, 2, bias=False)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    found = SimpleNamespace(module=module, optimizer=optimizer, global_rank=0, world_size=1)
    found.zero_optimization_stage, found.autotp_size = (lambda: 0), (lambda: 1)
    step(found)
    return found


def step(engine: Any) -> list[float]:
    """One more; the weights behind it."""
    import torch

    engine.module(torch.ones(1, 3)).sum().backward()
    engine.optimizer.step()
    return [float(value) for value in engine.module.weight.detach().view(-1)]


def record(number: int) -> Record:
    point = LossPoint(step=number, loss=1.0, learning_rate=0.1, num_tokens=1, sequences_checksum=0)
    return Record(step=number, losses=(point,))


def test_steps_go_on_while_a_checkpoint_is_written_and_change_nothing_in_it(ray: Ray, engine: Any) -> None:
    with Saver(asynchronous=True, report=ray) as saver:
        first = step(engine)
        saver.save(engine, record(1))
        later = step(engine)
        assert later != first
        assert not ray.done, "nothing was written before the next step was done"
        ray.let.release()
    assert ray.done == [1]
    assert ray.weights(1) == first
    assert checkpoint._read_record(ray.folder / "1", "1", "") == record(1).replace(num_files=1)


def test_without_it_each_checkpoint_is_written_before_the_next_step(ray: Ray, engine: Any) -> None:
    with Saver(asynchronous=False, report=ray) as saver:
        first = step(engine)
        saver.save(engine, record(1))
        assert ray.done == [1]
    assert ray.weights(1) == first


def test_the_next_checkpoint_waits_for_the_one_before_and_says_so(
    ray: Ray, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "LONG_S", 0.0)
    told: list[str] = []

    def tell(doing: str) -> None:
        told.append(doing)
        if doing:
            ray.let.release()

    with Saver(asynchronous=True, tell=tell, report=ray) as saver:
        first = step(engine)
        saver.save(engine, record(1))
        second = step(engine)
        saver.save(engine, record(2))
        assert ray.done == [1], "its memory is that of the second now"
        assert told == ["waiting for the checkpoint of step 1 to be written", ""]
    assert (ray.weights(1), ray.weights(2)) == (first, second)


def test_who_must_leave_has_both_written_in_their_order(ray: Ray, engine: Any) -> None:
    with Saver(asynchronous=True, report=ray) as saver:
        saver.save(engine, record(1))
        ray.let.release()
        saver.save(engine, record(2), at_once=True)
        assert ray.done == [1, 2]


def test_a_rank_that_fails_has_its_part_written_first(ray: Ray, engine: Any) -> None:
    num_waits = 0

    @contextmanager
    def waiting() -> Iterator[None]:
        nonlocal num_waits
        num_waits += 1
        if num_waits == 2:
            assert not ray.done
            ray.let.release()
        yield

    def failing() -> None:
        with Saver(asynchronous=True, waiting=waiting, report=ray) as saver:
            saver.save(engine, record(1))
            raise RuntimeError("of the step")

    with pytest.raises(RuntimeError, match="of the step"):
        failing()
    assert ray.done == [1]


@pytest.mark.parametrize("by", ["the next one", "the end"])
def test_one_that_cannot_be_written_is_told_of_by(ray: Ray, engine: Any, by: str) -> None:
    ray.fails = True
    ray.let.release()
    saver = Saver(asynchronous=True, report=ray)
    saver.save(engine, record(1))
    with pytest.raises(OSError, match="no room"):
        saver.save(engine, record(2)) if by == "the next one" else saver.__exit__(None, None, None)
    assert not ray.done


def test_the_steps_own_failure_comes_before_that_of_a_checkpoint(ray: Ray, engine: Any) -> None:
    ray.fails = True
    ray.let.release()
    saver = Saver(asynchronous=True, report=ray)
    saver.save(engine, record(1))
    failure = RuntimeError("of the step")
    saver.__exit__(RuntimeError, failure, None)


@pytest.mark.parametrize("copied", [False, True])
def test_a_part_may_be_written_once_more(engine: Any, tmp_path: Path, copied: bool) -> None:
    """As Ray Train does where an upload to S3 is turned away."""
    one = part(engine, record(1), Snapshot() if copied else None)
    one.write(tmp_path)
    before = (tmp_path / "0.bin").read_bytes()
    one.write(tmp_path)
    assert (tmp_path / "0.bin").read_bytes() == before
    assert len(before) == 4 * 6 * len(KINDS)


def test_a_part_is_on_the_disk_when_it_is_written(engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settled: dict[int, int] = {}
    fsync = os.fsync

    def noted(number: int) -> None:
        fsync(number)
        found = os.fstat(number)
        settled[found.st_ino] = found.st_size

    monkeypatch.setattr(os, "fsync", noted)
    part(engine, record(1)).write(tmp_path)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["0.bin", "0.json", "record.json"]
    assert settled == {file.stat().st_ino: file.stat().st_size for file in files}


def test_a_copy_is_float32_in_memory_of_its_own_that_is_used_again() -> None:
    import torch

    states, copy = torch.arange(5, dtype=torch.bfloat16), Snapshot()
    asked = [(Slice("w", "weights", 0, 3), states[:3]), (Slice("w", "weights", 3, 2), states[3:])]
    before = [values for _, values in copy.take(asked)]
    states += 1
    assert [values.tolist() for values in before] == [[0.0, 1.0, 2.0], [3.0, 4.0]]
    again = [values for _, values in copy.take(asked)]
    assert [values.tolist() for values in again] == [[1.0, 2.0, 3.0], [4.0, 5.0]]
    assert all(np.shares_memory(one, other) for one, other in zip(before, again, strict=True))


@pytest.fixture
def alone() -> Iterator[None]:
    """A group of one rank."""
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_weight_that_is_no_number_is_found(engine: Any, monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    import torch

    monkeypatch.setattr(layout, "member", lambda engine: 0)
    engine.device = torch.device("cpu")
    assert layout.are_numbers(engine)
    with torch.no_grad():
        engine.module.weight[1, 2] = value
    assert not layout.are_numbers(engine)


@pytest.mark.parametrize(
    ("filesystem", "path", "found"),
    [
        (
            SubTreeFileSystem("/", LocalFileSystem()),
            "bucket/runs/step-1",
            ["fetched", "all have", "s3://bucket/runs/step-1"],
        ),
        (LocalFileSystem(), "/models/runs/step-1", ["fetched", "/models/runs/step-1"]),
    ],
)
def test_what_ranks_fetch_they_read_once_all_have_it(
    filesystem: Any, path: str, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank that comes later than the others of its node fetches it again, over what they would read."""
    import torch.distributed as dist

    seen: list[str] = []

    @contextmanager
    def as_directory() -> Iterator[str]:
        seen.append("fetched")
        yield "/tmp/copy"

    monkeypatch.setattr(dist, "barrier", lambda: seen.append("all have"))
    monkeypatch.setattr(checkpoint, "read", lambda engine, folder, name: seen.append(name))
    checkpoint._read_reported(None, SimpleNamespace(filesystem=filesystem, path=path, as_directory=as_directory))
    assert seen == found
