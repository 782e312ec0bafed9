"""The whole lifecycle on five machines: each stage on its pool, and machines that die while they evaluate and quantize.

SERINUS_MACHINES=1 pytest tests/chaos/test_networked_lifecycle.py -s     # as root; prints the times of docs/architecture.md
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import registry
from cluster.storage import open_storage
from recipes.quickstart.prepare import prepare
from tests.chaos.networked_world import MACHINES, PORT, NetworkedCluster
from tests.chaos.test_train_kill import wait_for
from tests.conftest import REPOSITORY
from tests.e2e.small_lifecycle import Lifecycle, made, write_topics

pytestmark = MACHINES

SERVE = {"host": "0.0.0.0", "entry": "direct"}


@dataclass
class Networked(Lifecycle):
    """Its commands are typed on the head."""

    cluster: NetworkedCluster = field(kw_only=True)

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "serinus", *arguments]
        return self.cluster.on_head(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    @property
    def url(self) -> str:
        return self.cluster.url("serve").replace(f":{PORT}", f":{self.port}")


@dataclass
class Quickstart(Networked):
    """recipes/quickstart.yaml, which `make demo` runs; `sources`: where its input was prepared."""

    def declared(self) -> dict[str, Any]:
        shutil.copytree(QUICKSTART.with_suffix(""), self.folder / "quickstart")
        told: dict[str, Any] = yaml.safe_load(QUICKSTART.read_text(encoding="utf-8"))
        told["data"]["sources"][0]["path"] = f"{self.sources}/topics"
        return told


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lifecycle")


@pytest.fixture(scope="module")
def sources(folder: Path) -> str:
    return str(write_topics(folder / "topics"))


def of(name: str, folder: Path, sources: str, model: Path, cluster: NetworkedCluster) -> Networked:
    where = folder / name
    return Networked(where, str(where / "store"), sources, model, serve=SERVE, port=PORT, cluster=cluster)


@pytest.fixture(scope="module")
def calm(folder: Path, sources: str, tiny_model: Path, cluster: NetworkedCluster) -> Networked:
    """Made undisturbed."""
    lifecycle = of("calm", folder, sources, tiny_model, cluster)
    lifecycle.serinus("run", str(lifecycle.recipe))
    return lifecycle


@pytest.fixture(scope="module")
def disturbed(folder: Path, sources: str, tiny_model: Path, cluster: NetworkedCluster) -> Networked:
    return of("disturbed", folder, sources, tiny_model, cluster)


def test_a_serve_machine_dies_while_it_evaluates(cluster: NetworkedCluster, disturbed: Networked) -> None:
    disturbed.serinus("run", str(disturbed.recipe), "--until", "train")
    command = disturbed.begin("run", str(disturbed.recipe), "--until", "evaluate")
    name = killed_at_work(cluster, ("serve", "serve2"), "Scorer")
    at = time.monotonic()
    cluster.start(name)
    said = disturbed.end(command)
    print(f"{name} killed while it evaluates: {time.monotonic() - at:.0f} s to the end of both evaluations")
    assert "of pool `serve` is gone: going on elsewhere" in said


def test_the_train_machine_dies_while_it_quantizes(cluster: NetworkedCluster, disturbed: Networked) -> None:
    command = disturbed.begin("run", str(disturbed.recipe))
    killed_at_work(cluster, ("train",), "quantize_here")
    at = time.monotonic()
    started_s = cluster.start("train")
    said = disturbed.end(command)
    print(f"the train machine killed while it quantizes: {time.monotonic() - at:.0f} s to the candidate, {started_s:.1f} s of it "
          "a new machine's start")  # fmt: skip
    assert "of pool `train` is gone: going on elsewhere" in said


def test_what_they_made_is_what_is_made_undisturbed(calm: Networked, disturbed: Networked) -> None:
    quiet, loud = (made(open_storage(lifecycle.storage)) for lifecycle in (calm, disturbed))
    kept = [name for name in quiet.files if name.startswith(("checkpoint ", "quantized "))]
    assert {name.split()[0] for name in kept} == {"checkpoint", "quantized"}
    assert {name: quiet.files[name] for name in kept} == {name: loud.files.get(name) for name in kept}
    assert quiet.scores.keys() == loud.scores.keys()
    for task, score in quiet.scores.items():
        assert loud.scores[task] == pytest.approx(score, rel=1e-3)  # batches are cut by time


def test_each_stage_runs_on_its_pool_and_the_canary_is_promoted(calm: Networked) -> None:
    check_promoted(calm)


@pytest.mark.long
def test_the_quickstart_runs_on_these_machines(cluster: NetworkedCluster, folder: Path) -> None:
    prepare(folder / "input")
    lifecycle = Quickstart(
        folder / "quickstart", str(folder / "quickstart" / "store"), str(folder / "input"),
        folder / "input" / "SmolLM2-135M-Instruct.gguf", serve=SERVE, port=PORT, num_users=12, cluster=cluster,
    )  # fmt: skip
    began = time.monotonic()
    print(lifecycle.serinus("run", str(lifecycle.recipe), timeout=1_500))
    print(f"the quickstart's run: {time.monotonic() - began:.0f} s")
    check_promoted(lifecycle)


def check_promoted(lifecycle: Networked) -> None:
    """Its candidate becomes stable before its users' eyes; and where its stages ran."""
    storage = open_storage(lifecycle.storage)
    candidate = registry.aliases(storage, lifecycle.name)["candidate"]
    answers = lifecycle.promoted()
    where = lifecycle.cluster.ask("placed")
    print(f"{len(answers)} answers, the slowest {max(answer['took_s'] for answer in answers):.1f} s; {where}")
    assert registry.aliases(storage, lifecycle.name)["stable"] == candidate
    assert [answer for answer in answers if answer["status"] != 200] == []
    for name, pool in STAGES.items():
        assert set(where[name]) - {"gone"} == {pool}, name


STAGES = {"RayTrainWorker": "train", "Scorer": "serve", "quantize_here": "train"}
QUICKSTART = REPOSITORY / "recipes" / "quickstart.yaml"


def killed_at_work(cluster: NetworkedCluster, names: tuple[str, ...], title: str) -> str:
    """Kills the machine where it is at work; returns its name."""
    at_work: list[str] = []
    wait_for(lambda: bool(at_work.extend(n for n in names if cluster.runs(n, title)) or at_work), f"{title} at work")
    cluster.kill(at_work[0])
    return at_work[0]
