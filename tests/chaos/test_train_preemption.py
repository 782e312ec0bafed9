"""A node whose ranks get a notice is left with a checkpoint, and the run goes on elsewhere at that very step.

The nodes are `ray start`s on loopback addresses of this machine, with the head without CPUs, and one rank to a node.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.artifacts import Checkpoint
from cluster.ports import free_port
from cluster.processes import end
from cluster.session import ensure_token, node_environment
from cluster.storage import LocalStorage
from cluster.topology import HEAD, POOL_LABEL
from pipelines.training import fit
from pipelines.training.train import train
from tests.chaos.training_world import wait_for
from tests.integration.local_cluster import REPOSITORY
from tests.integration.loopback_provider import start_command
from tests.integration.training_case import GOLDEN, base_model, small_dataset, small_run

pytestmark = [pytest.mark.integration, pytest.mark.chaos, pytest.mark.timeout(1_200)]

HEAD_HOST, STEPS = "127.0.3.1", 400
FIELDS = {"num_steps": STEPS, "checkpoint_every_steps": 100_000, "max_failures": 0}
"""Nothing but the notice makes a checkpoint, and nothing that counts as a failure is survived."""

DRAIN = [sys.executable, "-c", "import sys; from ray.scripts.scripts import main; sys.exit(main())", "drain-node"]

LOOK = """from cluster.session import joined
import ray, sys
with joined(sys.argv[1]):
    nodes = ray.nodes()
"""


class Nodes:
    """A head, and train nodes that come and go."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port(6779)
        self.address = f"{HEAD_HOST}:{self._port}"
        # A private cluster of this process has turned the watcher off.
        changes = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1", "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1"}
        self.environment = node_environment(RAY_enable_worker_prestart="0", **changes)
        options = ["--head", f"--port={self._port}", "--num-cpus=0", f"--ray-client-server-port={free_port(20501)}"]
        self._start(HEAD_HOST, HEAD, *options, "--include-dashboard=false")

    def add(self, number: int) -> None:
        """A train node with room for one rank."""
        self._start(f"127.0.3.{number}", "train", f"--address={self.address}", "--num-cpus=1")

    def _start(self, host: str, pool: str, *options: str) -> None:
        own = [f"--labels={POOL_LABEL}={pool}", f"--dashboard-agent-listen-port={free_port(52590)}"]
        command = start_command(host, self._folder / host, *options, *own, f"--metrics-export-port={free_port(8590)}")
        subprocess.run(command, env=self.environment, cwd=REPOSITORY, check=True, timeout=400, capture_output=True)

    def asked(self, code: str) -> str:
        """What a driver prints that runs `code` with the list `nodes`."""
        program = (
            "from cluster.session import joined\nimport ray, sys\nwith joined(sys.argv[1]):\n    nodes = ray.nodes()\n    "
            + code
        )
        command = [sys.executable, "-c", program, self.address]
        done = subprocess.run(command, env=self.environment, cwd=REPOSITORY, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()[-1]

    def drain(self, number: int, deadline_s: int) -> None:
        """The notice, as whoever hears of it from the cloud gives it."""
        host = f"127.0.3.{number}"
        node = self.asked(f"print(*[n['NodeID'] for n in nodes if n['NodeManagerAddress'] == '{host}'])")
        asked = ["--node-id", node, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "taken back"]
        command = [*DRAIN, "--address", self.address, *asked, "--deadline-remaining-seconds", str(deadline_s)]
        subprocess.run(command, env=self.environment, cwd=REPOSITORY, check=True, capture_output=True)

    def alive(self) -> list[str]:
        return sorted(self.asked("print(*[n['NodeManagerAddress'] for n in nodes if n['Alive']])").split())

    def close(self) -> None:
        end(self._folder)
        shutil.rmtree(self._folder, ignore_errors=True)


@pytest.fixture
def nodes(own_home: Path) -> Iterator[Nodes]:
    ensure_token()
    folder = Path(tempfile.mkdtemp(prefix="sp-", dir="/tmp"))
    try:
        nodes = Nodes(folder)
    except BaseException:
        end(folder)
        raise
    yield nodes
    nodes.close()


class Run:
    """A driver on the head."""

    def __init__(self, nodes: Nodes, storage: Path, model: Path) -> None:
        command = [sys.executable, "-m", "tests.chaos.train_driver", nodes.address, str(storage), str(model)]
        self._log = storage.with_suffix(".log")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, json.dumps(FIELDS)],
                env=nodes.environment,
                cwd=REPOSITORY,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    def said(self) -> str:
        return self._log.read_text()

    def is_running(self) -> bool:
        return self._process.poll() is None

    def made(self) -> Checkpoint:
        told, _ = self._process.communicate(timeout=600)
        assert self._process.returncode == 0, self.said()[-3000:]
        (document,) = (line for line in told.decode().splitlines() if line.startswith("{"))
        return Checkpoint.model_validate_json(document)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def steps_trained(storage: Path) -> Counter[int]:
    """How often each step was, by all groups of ranks: from TensorBoard's event files."""
    from tensorboardX.proto.event_pb2 import Event

    found = Counter[int]()
    for file in storage.rglob("events.out.tfevents.*"):
        content, at = file.read_bytes(), 0
        while at < len(content):
            size = int.from_bytes(content[at : at + 8], "little")
            event = Event.FromString(content[at + 12 : at + 12 + size])
            found.update([event.step] * any(value.tag.endswith("loss") for value in event.summary.value))
            at += size + 16
    return found


def told_of_it(given: dict[str, Any]) -> dict[str, Any]:
    """The train stage's worker, of which rank 1 gets Ray Train's word of a node that is drained in step 3, once."""
    import torch.distributed as dist
    from ray.train.v2._internal.execution.context import get_train_context
    from ray.train.v2.api.preemption import PreemptionInfo

    from pipelines.training import loop

    take = loop.optimizer_step

    def notice(engine: Any, batches: Any, step: int, *args: Any) -> Any:
        if step == 2 and dist.get_rank() == 1:
            get_train_context().preemption_context.preemption_info = PreemptionInfo(None, {"node": [1]})
        return take(engine, batches, step, *args)

    here: Any = loop
    here.optimizer_step = notice
    return loop.worker(given)


@pytest.mark.usefixtures("ray_cluster")
def test_word_to_one_rank_makes_all_leave_after_that_step_and_go_on_there(
    storage: LocalStorage, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset, base = small_dataset(storage), base_model(storage, tiny_model)
    monkeypatch.setattr(fit, "worker", told_of_it)
    made = train(small_run(max_failures=0), dataset, base, storage)
    assert made.resumed_at_steps == (3,)
    assert "checkpoint of step 3 written, going on elsewhere" in " ".join(capfd.readouterr().err.split())
    assert steps_trained(storage.root) == Counter(range(1, 9))
    assert [point.loss for point in made.losses] == pytest.approx(json.loads(GOLDEN.read_text()), rel=1e-3)


@pytest.mark.long
def test_a_node_that_is_taken_away_costs_no_step(nodes: Nodes, tiny_model: Path, tmp_path: Path) -> None:
    nodes.add(2)
    nodes.add(3)
    storage = tmp_path / "storage"
    run = Run(nodes, storage, tiny_model)
    try:
        wait_for(lambda: bool(list(storage.glob("runs/train/*/starts.json"))) or not run.is_running(), "a start")
        nodes.drain(3, deadline_s=120)
        began = time.monotonic()
        wait_for(
            lambda: "waiting for room for 2 workers in pool `train`" in run.said() or not run.is_running(), "the wait"
        )
        print(f"left {time.monotonic() - began:.1f} s after the notice")
        assert run.is_running(), run.said()
        wait_for(lambda: nodes.alive() == [HEAD_HOST, "127.0.3.2"], "the end of the drained node")
        nodes.add(4)
        made = run.made()
    finally:
        run.close()
    left = re.search(r"checkpoint of step (\d+) written, going on elsewhere", run.said())
    assert left, run.said()
    assert f"resumed at {left[1]}" in run.said()
    assert made.resumed_at_steps == (int(left[1]),)
    assert steps_trained(storage) == Counter(range(1, STEPS + 1)), "each step asked for, and none twice"

    undisturbed = Run(nodes, tmp_path / "undisturbed", tiny_model)
    try:
        wanted = undisturbed.made()
    finally:
        undisturbed.close()
    assert not wanted.resumed_at_steps
    assert made.losses == wanted.losses
