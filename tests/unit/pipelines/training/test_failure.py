"""What is told of workers that failed."""

from __future__ import annotations

import pytest

from cluster.errors import InputError, ResourceError, StageFailed
from cluster.storage import LocalStorage
from pipelines.training.failure import explained, meant_for_people, reason

TRACEBACK = """Traceback (most recent call last):
  File "slices.py", line 97, in verify
cluster.errors.InputError: step-4/1.bin: is not what was written
  -> remove the run's whole folder and run again
"""


def test_an_error_meant_for_people_is_raised_again_as_it_was() -> None:
    found = meant_for_people(TRACEBACK)
    assert type(found) is InputError
    assert (found.where, found.found) == ("step-4/1.bin", "is not what was written")
    assert found.remedy == "remove the run's whole folder and run again"
    assert found.exit_code == 2

    asked = "Traceback\nray.exceptions.RayTaskError: x\ncluster.errors.ResourceError: memory of a rank: 3 of 4: no\n  -> do\n"
    found = meant_for_people(asked)
    assert isinstance(found, ResourceError)
    assert (found.where, found.found, found.remedy) == ("memory of a rank", "3 of 4: no", "do")
    assert meant_for_people("cluster.errors.StageFailed: a: b\n  -> c") is None
    assert meant_for_people("ValueError: no\n") is None


class Failed(Exception):
    """As Ray Train's error has the ranks' exceptions."""

    def __init__(self, *failures: Exception) -> None:
        super().__init__("Training failed due to worker errors")
        self.worker_failures = dict(enumerate(failures))


DAMAGED = InputError("step-4/1.bin", "is not what was written", "remove the run's whole folder and run again")


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (Failed(RuntimeError("Connection closed by peer"), DAMAGED), InputError, "1.bin: is not what was written"),
        (Failed(RuntimeError("CUDA out of memory")), ResourceError, "lower train.sequences_per_worker"),
        (RuntimeError("CheckpointManagerInitializationError: 0"), InputError, "runs/train/0: Ray Train's list"),
        (
            Failed(ValueError("no"), ValueError("no")),
            StageFailed,
            r"for good \(ValueError: no\); checkpoints are kept in .*/runs/train/0$",
        ),
    ],
)
def test_what_failed_says_what_to_do(error: Exception, kind: type[Exception], says: str, storage: LocalStorage) -> None:
    with pytest.raises(kind, match=says):
        raise explained(error, storage, "runs/train/0")


def test_of_other_errors_the_last_line_is_told() -> None:
    assert reason("Traceback\n  File x\nValueError: no\n") == "ValueError: no"
    assert reason("") == "no reason given"


def test_of_a_run_that_hung_the_rank_is_named_and_not_what_ended_with_it() -> None:
    gone, hung = RuntimeError("The actor died"), "no rank got further for 21 s: rank 1 hangs"
    failed = explained(Failed(gone), LocalStorage("/models"), "runs/train/k", hung)
    assert isinstance(failed, StageFailed)
    assert failed.exit_code == 3
    assert str(failed) == (
        "train: no rank got further for 21 s: rank 1 hangs; there were more failures than train.max_failures allows;"
        " checkpoints are kept in /models/runs/train/k"
    )
    without_a_group = explained(RuntimeError("the controller ended"), LocalStorage("/models"), "runs/train/k", hung)
    assert "hangs" not in str(without_a_group)
    refused = InputError("a", "b", "c")
    assert explained(Failed(gone, refused), LocalStorage("/models"), "runs/train/k", hung) is refused
