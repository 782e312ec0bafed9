"""Ray Train's list of checkpoints where it was written by half, or names what is gone; read by Ray Train's own manager."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cluster.artifacts import Incident, LossPoint
from cluster.errors import InputError
from cluster.storage import LocalStorage
from pipelines.training.checkpoint import RECORD, Record
from pipelines.training.checkpoint_list import SNAPSHOT, mend_list

RUN = "runs/train/k"


def written(storage: LocalStorage, folder: str, step: int, num_incidents: int = 0) -> Path:
    """A checkpoint of two ranks."""
    point = LossPoint(step=step, loss=3.0 - step / 10, learning_rate=0.1, num_tokens=1)
    incident = Incident(step=step, reason="the loss is not a number", sequences_checksum=0)
    record = Record(step=step, num_files=2, losses=(point,), incidents=(incident,) * num_incidents)
    files = {RECORD: record.model_dump_json(), **{f"{n}.{kind}": "" for n in range(2) for kind in ("bin", "json")}}
    for name, content in files.items():
        storage.write(f"{RUN}/{folder}/{name}", content.encode())
    return storage.path(f"{RUN}/{folder}")


def listed(storage: LocalStorage) -> list[int]:
    """Steps of the checkpoints as Ray Train takes them up, in its order; the newest is the last one."""
    from ray.train import CheckpointConfig
    from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
    from ray.train.v2._internal.execution.storage import StorageContext

    folder, name = str(storage.path(RUN)).rsplit("/", 1)
    manager = CheckpointManager(CheckpointConfig(num_to_keep=3), StorageContext(folder, name))
    found = [one.metrics["step"] for one in manager._checkpoint_results]
    newest = manager.latest_checkpoint_result
    assert newest is not None
    assert newest.metrics["step"] == found[-1]
    assert manager._current_report_index == len(found)
    return found


@pytest.fixture
def run(storage: LocalStorage) -> LocalStorage:
    """One with three checkpoints whose list was cut short."""
    for step in (4, 8, 12):
        written(storage, f"step-{step:08d}", step)
    storage.write(f"{RUN}/{SNAPSHOT}", b'{"ray_version": "2')
    return storage


def test_a_list_that_was_written_by_half_is_made_anew(run: LocalStorage, capsys: pytest.CaptureFixture[str]) -> None:
    mend_list(run, RUN)
    assert listed(run) == [4, 8, 12]
    assert "list cannot be read; going on from the newest whole one, of step 12" in " ".join(
        capsys.readouterr().err.split()
    )


def test_an_empty_one_as_well(run: LocalStorage) -> None:
    run.write(f"{RUN}/{SNAPSHOT}", b"")
    mend_list(run, RUN)
    assert listed(run) == [4, 8, 12]


def test_a_checkpoint_that_was_removed_is_not_missed(run: LocalStorage) -> None:
    mend_list(run, RUN)
    shutil.rmtree(run.path(f"{RUN}/step-00000012"))
    mend_list(run, RUN)
    assert listed(run) == [4, 8]


def test_one_that_is_not_whole_is_not_listed(run: LocalStorage) -> None:
    run.path(f"{RUN}/step-00000012/1.json").unlink()
    run.path(f"{RUN}/step-00000008/{RECORD}").write_text("{")
    mend_list(run, RUN)
    assert listed(run) == [4]


def test_behind_a_way_back_what_was_written_before_the_incident_is_older(run: LocalStorage) -> None:
    written(run, "step-00000008-1", 8, num_incidents=1)
    mend_list(run, RUN)
    assert listed(run) == [4, 8, 12, 8]


def test_a_list_that_fits_is_left_as_it_is(run: LocalStorage) -> None:
    mend_list(run, RUN)
    before = run.read(f"{RUN}/{SNAPSHOT}")
    written(run, "step-00000016", 16)  # not reported by all ranks
    mend_list(run, RUN)
    assert run.read(f"{RUN}/{SNAPSHOT}") == before


def test_a_run_that_has_none_is_left_alone(storage: LocalStorage) -> None:
    written(storage, "step-00000004", 4)
    mend_list(storage, RUN)
    assert storage.read(f"{RUN}/{SNAPSHOT}") is None


def test_where_no_checkpoint_is_whole_the_run_does_not_silently_begin_anew(run: LocalStorage) -> None:
    for step in (4, 8, 12):
        run.path(f"{RUN}/step-{step:08d}/0.bin").unlink()
    with pytest.raises(InputError, match=r"list cannot be read, and no whole checkpoint is there\n.*whole folder"):
        mend_list(run, RUN)
