"""What becomes of a run whose machines are taken away, lost or stopped: it ends with the losses of the undisturbed one."""

from __future__ import annotations

import re
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from cluster.artifacts import LossPoint
from cluster.auth_token import ensure_token
from cluster.processes import end
from cluster.storage import LocalStorage
from tests.chaos.training_nodes import HEAD_HOST, Nodes, Run, host, steps_trained
from tests.chaos.training_world import registered, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.chaos, pytest.mark.long, pytest.mark.timeout(1_200)]

STEPS = 400
WAITS = "waiting for room for 2 workers in pool `train`"
Begin = Callable[..., Run]


@pytest.fixture(scope="module")
def nodes(own_home: Path) -> Iterator[Nodes]:
    """Two train nodes, .2 and .3, to begin with."""
    ensure_token()
    folder = Path(tempfile.mkdtemp(prefix="sp-", dir="/tmp"))
    try:
        nodes = Nodes(folder)
        nodes.add()
        nodes.add()
    except BaseException:
        end(folder)
        raise
    yield nodes
    nodes.close()


@pytest.fixture(scope="module")
def wanted(nodes: Nodes, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[LossPoint, ...]:
    """The losses of an undisturbed run."""
    folder = tmp_path_factory.mktemp("undisturbed") / "storage"
    with closing(Run(nodes, folder, tiny_model, num_steps=STEPS, checkpoint_every_steps=100_000)) as run:
        made = run.made()
    assert not made.resumed_at_steps
    return made.losses


@pytest.fixture
def begin(nodes: Nodes, tiny_model: Path, tmp_path: Path) -> Iterator[Begin]:
    """Starts a run with these fields, and waits until it trains."""
    with ExitStack() as started:

        def one(**fields: Any) -> Run:
            run = started.enter_context(
                closing(Run(nodes, tmp_path / "storage", tiny_model, num_steps=STEPS, **fields))
            )
            wait_for(
                lambda: bool(list(run.storage.glob("runs/train/*/starts.json"))) or not run.is_running(), "a start"
            )
            return run

        yield one


def test_a_node_that_is_taken_away_costs_no_step(nodes: Nodes, wanted: tuple[LossPoint, ...], begin: Begin) -> None:
    """Nothing but the notice makes a checkpoint, and nothing that counts as a failure is survived."""
    run = begin(checkpoint_every_steps=100_000, max_failures=0)
    print(f"left {nodes.drain(nodes.newest, deadline_s=120):.1f} s after the notice")
    wait_for(lambda: run.has_said("going on elsewhere"), "the leave")
    wait_for(lambda: run.has_said(WAITS), "the wait")
    wait_for(lambda: nodes.alive() == [HEAD_HOST, host(2)], "the end of the drained node")
    nodes.add()
    made = run.made()
    left = re.search(r"checkpoint of step (\d+) written", run.said())
    assert left
    assert made.resumed_at_steps == (int(left[1]),)
    assert steps_trained(run.storage) == Counter(range(1, STEPS + 1)), "each step asked for, and none twice"
    assert made.losses == wanted


def test_a_node_that_is_lost_is_waited_for(nodes: Nodes, wanted: tuple[LossPoint, ...], begin: Begin) -> None:
    """Ray Train alone gives up: here after twice ten seconds."""
    run = begin(checkpoint_every_steps=20, max_failures=1)
    wait_for(lambda: registered(LocalStorage(run.storage), 20), "a checkpoint")
    nodes.lose(nodes.newest)
    wait_for(lambda: run.has_said(WAITS), "the wait")
    nodes.add()
    made = run.made()
    assert len(made.resumed_at_steps) == 1
    assert made.resumed_at_steps[0] in range(20, STEPS, 20)
    assert made.losses == wanted


def test_a_rank_that_is_stopped_is_found_on_its_node(nodes: Nodes, wanted: tuple[LossPoint, ...], begin: Begin) -> None:
    run = begin(checkpoint_every_steps=20, hang_timeout_s=20)
    wait_for(lambda: registered(LocalStorage(run.storage), 20), "a checkpoint")
    (rank,) = nodes.ranks(nodes.newest)
    rank.send_signal(signal.SIGSTOP)
    made = run.made()
    assert f"(pid {rank.pid} on {host(nodes.newest)}, stopped, silent for" in " ".join(run.said().split())
    assert "pipelines/training/loop.py" in run.said()
    assert len(made.resumed_at_steps) == 1
    assert made.losses == wanted
