"""What is told of workers that failed."""

from __future__ import annotations

import pytest

from cluster.errors import InputError, ResourceError, StageFailed
from cluster.storage import LocalStorage
from pipelines.config import TrainConfig
from pipelines.training.failure import explained, less_memory, meant_for_people, reason

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
        (
            Failed(RuntimeError("rank 1\nCUDA out of memory. Tried to allocate 2.00 GiB\nmore")),
            ResourceError,
            r"the GPUs' memory \(CUDA out of memory. Tried to allocate 2.00 GiB\)\n.*lower train.sequences_per_worker \(8\)",
        ),
        (
            Failed(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes.")),
            ResourceError,
            r"hosts' memory .*\n.*checkpoint_asynchronously: false",
        ),
        (Failed(MemoryError()), ResourceError, r"hosts' memory \(MemoryError:\)"),
        (
            Failed(RuntimeError("Memory on the node (IP: 10.0.0.1, ID: a) was 31.2GB used / 32.0GB limit (0.97)")),
            ResourceError,
            "hosts' memory .*31.2GB used",
        ),
        (
            Failed(RuntimeError("with CUDA_VISIBLE_DEVICES=0\nMemoryError: Unable to allocate 9 GiB\x1d for an array")),
            ResourceError,
            "hosts' memory .MemoryError: Unable",
        ),
        (
            Failed(RuntimeError("NCCL WARN Cuda failure 2 'out of memory'")),
            ResourceError,
            "GPUs' memory",
        ),
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
        raise explained(error, TrainConfig(), storage, "runs/train/0")


def test_without_memory_only_settings_are_named_that_would_take_less() -> None:
    assert less_memory(TrainConfig(), on_gpu=True) == [
        "lower train.sequences_per_worker (8) with sequences_per_step: 16",
        "set train.gradient_checkpointing: true",
        "set train.zero.offload_optimizer: true",
        "set train.zero.offload_parameters: true",
        "lower train.sequence_length (another run)",
    ]
    asked = {"sequences_per_worker": 1, "gradient_checkpointing": True, "zero": {"stage": 1}}
    one_by_one = TrainConfig.model_validate(asked)
    assert less_memory(one_by_one, on_gpu=False) == [
        "set train.zero.stage: 3",
        "set train.checkpoint_asynchronously: false",
        "lower train.sequence_length (another run)",
    ]
    private = TrainConfig.model_validate({**asked, "privacy": {"target_epsilon": 2.0, "delta": 1e-5}})
    assert "set train.zero.stage: 3" not in less_memory(private, on_gpu=True)


def test_of_other_errors_the_last_line_is_told() -> None:
    assert reason("Traceback\n  File x\nValueError: no\n") == "ValueError: no"
    assert reason("") == "no reason given"


def test_of_a_run_that_hung_the_rank_is_named_and_not_what_ended_with_it() -> None:
    gone, hung = RuntimeError("The actor died"), "no rank got further for 21 s: rank 1 hangs"
    failed = explained(Failed(gone), TrainConfig(), LocalStorage("/models"), "runs/train/k", hung)
    assert isinstance(failed, StageFailed)
    assert failed.exit_code == 3
    assert str(failed) == (
        "train: no rank got further for 21 s: rank 1 hangs; there were more failures than train.max_failures allows;"
        " checkpoints are kept in /models/runs/train/k"
    )
    without_a_group = explained(
        RuntimeError("the controller ended"), TrainConfig(), LocalStorage("/models"), "runs/train/k", hung
    )
    assert "hangs" not in str(without_a_group)
    refused = InputError("a", "b", "c")
    assert explained(Failed(gone, refused), TrainConfig(), LocalStorage("/models"), "runs/train/k", hung) is refused
