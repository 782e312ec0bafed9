"""A rank that hangs is found, named with its stack and ended, and the run ends with the loss curve of the undisturbed one."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.artifacts import Checkpoint
from cluster.errors import StageFailed
from cluster.processes import began
from cluster.storage import LocalStorage
from pipelines.training import fit, watch
from pipelines.training.hang import TRAINING, Beat
from pipelines.training.heartbeat import whereabouts
from pipelines.training.train import train
from tests.chaos.training_world import registered, wait_for, workers
from tests.integration.training_case import base_model, chaos_run, golden_losses, small_dataset
from tests.tracing import may_trace

pytestmark = [
    pytest.mark.integration,
    pytest.mark.chaos,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("ray_cluster"),
]

TIMEOUT_S = 20
"""A busy machine's ranks stand still for seconds while they import and build their engine."""


def assert_golden(made: Checkpoint) -> None:
    assert [point.step for point in made.losses] == list(range(1, 9))
    assert [point.loss for point in made.losses] == pytest.approx(golden_losses(), rel=1e-3)


def test_a_stopped_rank_is_named_with_its_stack_and_replaced(
    storage: LocalStorage, tiny_model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset, base = small_dataset(storage), base_model(storage, tiny_model)
    stopped: list[int] = []

    def stop_one() -> None:
        wait_for(lambda: registered(storage, 1) and bool(workers()), "a rank to stop")
        victim = workers()[-1]
        victim.send_signal(signal.SIGSTOP)
        stopped.append(victim.pid)

    threading.Thread(target=stop_one).start()
    made = train(chaos_run(hang_timeout_s=TIMEOUT_S), dataset, base, storage)

    told = " ".join(capfd.readouterr().err.split())
    (pid,) = stopped
    named = re.search(
        rf"rank (\d) \(pid {pid} on [\d.]+, stopped, silent for \d+ s\) .*? hangs; the other 1 waits", told
    )
    assert named, told
    if may_trace():
        assert f"rank {named[1]} is in" in told
        assert "pipelines/training/loop.py" in told
    else:
        assert f"no stack of rank {named[1]}: py-spy cannot read it" in told
    assert not any(process.pid == pid for process in workers())
    assert len(made.resumed_at_steps) == 1
    assert made.resumed_at_steps[0] >= 1
    assert_golden(made)


def test_a_node_that_is_gone_is_not_waited_for() -> None:
    node_id, address = whereabouts()
    here = Beat(TRAINING, 0, 0, 0, os.getpid(), began(os.getpid()) or 0, node_id, address)
    begun = time.monotonic()
    found = watch._on_nodes(watch._seen, {0: here, 1: here._replace(node_id="f" * 56), 2: here._replace(started_at=0)})
    assert time.monotonic() - begun < watch.ON_NODE_S
    assert found[0] is not None
    assert ("test_a_node_that_is_gone_is_not_waited_for" in found[0].stack) == may_trace()
    assert (found[1], found[2]) == (None, None)


def stuck(given: dict[str, Any]) -> dict[str, Any]:
    """The train stage's worker, of which rank 1 gets no data from step 4 on."""
    from pipelines.training import loop
    from pipelines.training.batches import Batches

    of_step = Batches.of_step

    def never_returns(batches: Batches, step: int) -> Any:
        while batches.share.rank == 1 and step == 3:
            time.sleep(0.01)
        return of_step(batches, step)

    here: Any = Batches
    here.of_step = never_returns
    return loop.worker(given)


@pytest.mark.long
def test_a_run_that_hangs_each_time_ends_with_one_message_that_names_the_rank(
    storage: LocalStorage, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, base = small_dataset(storage), base_model(storage, tiny_model)
    monkeypatch.setattr(fit, "worker", stuck)
    with pytest.raises(StageFailed, match="rank 1 ") as raised:
        train(chaos_run(hang_timeout_s=TIMEOUT_S, max_failures=0), dataset, base, storage)
    told = str(raised.value)
    assert re.search(
        r"rank 1 \(pid \d+ on [\d.]+, \w+\) in step 4, at [\w.<>]*never_returns \(.*?test_train_hang.py:\d+\) hangs",
        told,
    ), told
    assert "train.max_failures" in told
    assert "silent" not in told
    monkeypatch.undo()
    assert_golden(train(chaos_run(), dataset, base, storage))
