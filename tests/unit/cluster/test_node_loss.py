"""Which deaths of a process are its machine's, and how often another one takes over."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event

import pytest

from cluster import node_loss
from cluster.errors import ProcessDied
from cluster.node_loss import MOST_LOSSES, outliving_its_node

DIED = ProcessDied("evaluate", "the engine's process died", "most often memory ran out")


class Pool:
    """Machines that die as the test says; one did before."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gone = {"z": "10.0.0.26"}
        self.waited = 0
        monkeypatch.setattr(node_loss, "gone", lambda pool: dict(self.gone))
        monkeypatch.setattr(node_loss, "wait_for_node", self._wait)
        monkeypatch.setattr(node_loss, "NOTICED_WITHIN_S", 0.2)
        monkeypatch.setattr(node_loss, "POLL_S", 0.01)

    def _wait(self, stage: str, pool: str, *, num_gpus: int, done: Event) -> None:
        assert (stage, pool, num_gpus) == ("evaluate", "serve", 1)
        self.waited += 1


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Pool:
    return Pool(monkeypatch)


def run(work: Callable[[], str]) -> str:
    return outliving_its_node("evaluate", "serve", work, num_gpus=1)


def test_what_ends_well_is_called_once(pool: Pool) -> None:
    assert run(lambda: "done") == "done"
    assert pool.waited == 0


def test_another_machine_takes_over_what_was_lost_with_one(pool: Pool, capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[int] = []

    def work() -> str:
        calls.append(len(calls))
        if len(calls) == 1:
            pool.gone["a"] = "10.0.0.1"
            raise DIED
        return "done"

    assert run(work) == "done"
    assert len(calls) == 2
    assert pool.waited == 1
    assert "machine 10.0.0.1 of pool `serve` is gone" in capsys.readouterr().err


def test_a_process_that_died_by_itself_is_not_begun_again(pool: Pool) -> None:
    calls: list[int] = []

    def work() -> str:
        calls.append(0)
        raise DIED

    with pytest.raises(ProcessDied, match="the engine's process died"):
        run(work)
    assert len(calls) == 1


def test_nobody_asks_or_waits_for_work_that_is_of_no_use_any_more(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_loss, "NOTICED_WITHIN_S", 3600.0)
    done = Event()

    def work() -> str:
        done.set()
        raise DIED

    with pytest.raises(ProcessDied, match="the engine's process died"):
        outliving_its_node("evaluate", "serve", work, num_gpus=1, done=done)
    assert pool.waited == 0


def test_work_that_takes_machine_after_machine_with_it_ends(pool: Pool) -> None:
    calls: list[int] = []

    def work() -> str:
        calls.append(0)
        pool.gone[str(len(calls))] = "10.0.0.9"
        raise DIED

    with pytest.raises(ProcessDied):
        run(work)
    assert len(calls) == MOST_LOSSES + 1


def test_other_errors_pass(pool: Pool) -> None:
    def work() -> str:
        pool.gone["a"] = "10.0.0.1"
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        run(work)
