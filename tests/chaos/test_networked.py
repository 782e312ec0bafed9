"""Five machines with addresses of their own: stages land on their pools; a cut network and machines that die change no result.

SERINUS_MACHINES=1 pytest tests/chaos/test_networked.py -s     # as root; prints the times of docs/architecture.md
"""

from __future__ import annotations

import csv
import json
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest

from cluster.storage import LocalStorage
from services.rollout import controller
from services.rollout.status import RolloutStatus
from tests.chaos import redis
from tests.chaos.networked_world import MACHINES, POOL_OF, NetworkedCluster, Watch, told
from tests.chaos.prometheus import IS_INSTALLED, Prometheus
from tests.chaos.serving_world import NAME, NUM_GATEWAYS
from tests.chaos.test_train_kill import registered, wait_for
from tests.integration.clients import Clients
from tests.integration.gateway_world import eventually
from tests.integration.training_case import golden_losses

pytestmark = MACHINES
CUT_S = 30.0
HEADLESS_S, FULL_S = 10.0, 30.0
SLOW_S = 2.0
"""An answer takes 0.6 s here."""
AZURE = Path(__file__).resolve().parents[3] / "shared" / "data" / "trace_azure" / "AzureLLMInferenceTrace_code.csv"
"""Arrivals at a service for code completion, 2023 (Patel et al. 2024, Splitwise): bursts and lulls."""
NUM_MODELS = 4
NUM_FILES, FILE_CHARACTERS = 24, 1_500_000


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> LocalStorage:
    return LocalStorage(tmp_path_factory.mktemp("networked"))


@pytest.fixture
def watch(cluster: NetworkedCluster) -> Iterator[Watch]:
    with Watch(cluster) as watch:
        yield watch


@pytest.fixture(scope="module")
def serving(cluster: NetworkedCluster, storage: LocalStorage) -> dict[str, list[str]]:
    """Where gateways and models were placed."""
    placed: dict[str, list[str]] = cluster.ask("serve", str(storage.root))
    return placed


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents enough for minutes of cleaning with one reader."""
    folder, draw = tmp_path_factory.mktemp("texts"), random.Random(0)
    paragraphs = [part for text in topics.values() for part in text.split("\n\n") if len(part) > 200]
    for number in range(NUM_FILES):
        with open(folder / f"{number:02}.jsonl", "w", encoding="utf-8") as file:
            while file.tell() < FILE_CHARACTERS:
                file.write(json.dumps({"text": "\n\n".join(draw.sample(paragraphs, 12))}) + "\n")
    return folder


@pytest.fixture(scope="module")
def gaps() -> list[float]:
    """Seconds between arrivals, 0.1 in the mean: those of a real service where they are there."""
    if not AZURE.exists():
        draw = random.Random(0)
        return [draw.expovariate(10) for _ in range(8_000)]
    with open(AZURE, encoding="utf-8") as lines:
        moments = sorted(datetime.fromisoformat(row["TIMESTAMP"][:26]).timestamp() for row in csv.DictReader(lines))
    mean = (moments[-1] - moments[0]) / (len(moments) - 1)
    return [(later - earlier) * 0.1 / mean for earlier, later in pairwise(moments)]


@pytest.fixture(scope="module")
def calm(cluster: NetworkedCluster, storage: LocalStorage, texts: Path) -> dict[str, Any]:
    """What cleaning makes of the texts undisturbed."""
    made: dict[str, Any] = cluster.ask("clean", str(storage.root / "calm"), str(texts))
    return made


def whole(state: dict[str, object]) -> bool:
    return (state["models"], state["gateways"]) == (NUM_MODELS, NUM_GATEWAYS)


def users(cluster: NetworkedCluster, gaps: list[float], machine: str = "serve") -> Clients:
    """Four clients of a machine that stays, who ask as often as the trace's users come."""
    return Clients(cluster.url(machine), NAME, num=4, pause_s=lambda draw: min(4 * draw.choice(gaps), 5.0))


def status_of(storage: LocalStorage, rollout: str) -> RolloutStatus:
    status = controller.status(storage, NAME)
    assert status is not None
    assert status.id == rollout
    return status


def report(what: str, clients: Clients, since: float, until: float) -> None:
    """Prints what users met between two moments (time.time()); fails if a request was lost."""
    seen = [one for one in clients.seen if one.ended_at >= since and one.began_at <= until]
    lost, broken = [one for one in seen if one.lost], [one for one in seen if one.problem and one.num_tokens]
    slow = sorted((one.ended_at - one.began_at, one.began_at - since, one.revision) for one in seen)
    waited = [(f"{took:.1f} s from {began:.1f} s on", revision) for took, began, revision in slow if took > SLOW_S]
    print(
        f"{what}: {len(seen)} requests, {len(lost)} lost, {len(broken)} streams broken, the longest {slow[-1][0]:.1f} s; {waited}"
    )
    assert len(seen) > 20
    assert lost == []


@pytest.mark.usefixtures("serving")
def test_serve_is_cut_from_the_head_during_a_rollout(
    cluster: NetworkedCluster, watch: Watch, storage: LocalStorage, gaps: list[float]
) -> None:
    """Both serve machines: nobody there reaches the head, clients reach them."""
    with users(cluster, gaps) as clients:
        clients.wait_for(20)
        rollout = cluster.ask("rollout", str(storage.root))
        wait_for(lambda: status_of(storage, rollout).weight_applied_at is not None, "the canary's first share")
        since = time.time()
        with cluster.network.cut("head", "serve"), cluster.network.cut("head", "serve2"):
            threading.Event().wait(CUT_S)  # what is tested is a span of time
        healed_at, healed = time.time(), time.monotonic()
        back_s = watch.until(lambda state: whole(state) and len(state["alive"]) == len(POOL_OF), healed)
        wait_for(lambda: status_of(storage, rollout).ended, "the rollout's end")
        took_s = time.monotonic() - healed
        clients.wait_for(40)
    report(f"serve cut from head for {CUT_S:.0f} s", clients, since, healed_at)
    report("after it", clients, healed_at, time.time())
    status = status_of(storage, rollout)
    print(f"whole {back_s:.1f} s after, {status.phase} {took_s:.0f} s after: {[d.action for d in status.decisions]}")
    assert status.phase == "promoted"
    assert [decision.action for decision in status.decisions] == ["set_weight", "set_weight", "promote"]


SCRAPED = (
    'ray_serinus_requests_total{role="stable", outcome="ok"}',
    "ray_serinus_ttft_seconds_bucket",
    "ray_serinus_tokens_total",
    "ray_serinus_rollout_turn_timestamp_seconds",
    "ray_serinus_rollout_weight_percent",
    "ray_serve_deployment_replica_healthy",
    "ray_node_mem_used",
)


@pytest.mark.usefixtures("serving")
@pytest.mark.skipif(not IS_INSTALLED, reason="no prometheus here (Debian: prometheus)")
def test_a_real_prometheus_scrapes_every_machine(cluster: NetworkedCluster, tmp_path: Path) -> None:
    with Prometheus(tmp_path, cluster.ask("metrics")) as prometheus:
        with Clients(cluster.url("serve"), NAME, num=2, pause_s=0.2) as clients:
            clients.wait_for(20)
            for query in ("sum(up) == 5", *SCRAPED):
                eventually(lambda query=query: prometheus.ask(query) != [], 60)
        wait_for(lambda: "unknown" not in {health for health, _ in prometheus.alerts().values()}, "a look at each rule")
        alerts = prometheus.alerts()
        print("rollout weight:", [s["value"][1] for s in prometheus.ask("ray_serinus_rollout_weight_percent")], alerts)
    assert {health for health, _ in alerts.values()} == {"ok"}
    away = {name for name, (_, state) in alerts.items() if state != "inactive"}
    assert away <= {"SerinusHeadAway"}, "labels of Kubernetes' pods, which are not here"


@pytest.mark.usefixtures("serving")
def test_a_serve_machine_dies_under_load(cluster: NetworkedCluster, watch: Watch, gaps: list[float]) -> None:
    """The other one's gateways are asked: those of the dead one take their connections along."""
    with users(cluster, gaps) as clients:
        clients.wait_for(20)
        since, at = time.time(), cluster.kill("serve2")
        noticed_s = watch.until(lambda state: len(state["alive"]) == 4, at)
        clients.wait_for(40)
        started_s = cluster.start("serve2")
        back_s = watch.until(whole)
        clients.wait_for(40)
    report("a serve machine killed", clients, since, time.time())
    print(f"noticed {noticed_s:.1f} s after, whole {back_s:.1f} s after a new machine had started ({started_s:.1f} s)")


def test_stages_run_on_the_machines_of_their_pools(
    cluster: NetworkedCluster, serving: dict[str, list[str]], storage: LocalStorage, tiny_model: Path
) -> None:
    raw = Path(__file__).resolve().parents[2] / "recipes" / "quickstart" / "raw"
    cleaned = cluster.ask("clean", str(storage.root / "quick"), str(raw))
    trained = cluster.ask("train", str(storage.root / "quick"), str(tiny_model))
    print(cleaned["tasks"], trained["actors"], serving)
    assert set(cleaned["tasks"]) == {"data"}
    assert set(trained["actors"]["RayTrainWorker"]) == {"train"}
    assert serving == {"gateways": ["serve"] * NUM_GATEWAYS, "models": ["serve"] * NUM_MODELS}
    assert trained["losses"] == pytest.approx(golden_losses(), rel=1e-3)


def test_the_data_machine_dies_while_it_cleans(
    cluster: NetworkedCluster, storage: LocalStorage, texts: Path, calm: dict[str, Any]
) -> None:
    program = cluster.begin("clean", str(storage.root / "disturbed"), str(texts))
    wait_for(lambda: cluster.works("data"), "work on the data machine")
    at = cluster.kill("data")
    assert program.poll() is None
    started_s = cluster.start("data")
    disturbed = told(program)
    recovered_s = time.monotonic() - at
    print(
        f"the data machine killed: {disturbed['took_s']:.0f} s, undisturbed {calm['took_s']:.0f} s; "
        f"{recovered_s:.0f} s from its death to the end, {started_s:.1f} s of it a new machine's start; {disturbed['summary']}"
    )
    assert disturbed["files"] == calm["files"]


def test_the_disk_of_the_data_machine_is_full_for_a_while(
    cluster: NetworkedCluster, storage: LocalStorage, texts: Path, calm: dict[str, Any]
) -> None:
    """Its own disk, which holds Ray's logs and sockets; what is made lies in the storage. Workers die there as they start."""
    program = cluster.begin("clean", str(storage.root / "full"), str(texts))
    with cluster.full_disk("data"), suppress(subprocess.TimeoutExpired):
        program.wait(FULL_S)
    disturbed = told(program)
    print(f"its disk full for {FULL_S:.0f} s: {disturbed['took_s']:.0f} s, undisturbed {calm['took_s']:.0f} s")
    assert disturbed["files"] == calm["files"]


def test_the_train_machine_dies_while_it_trains(
    cluster: NetworkedCluster, storage: LocalStorage, tiny_model: Path
) -> None:
    where = LocalStorage(storage.root / "trained")
    program: subprocess.Popen[str] = cluster.begin("train", str(where.root), str(tiny_model))
    wait_for(lambda: registered(where, 2), "a checkpoint")
    at = cluster.kill("train")
    started_s = cluster.start("train")
    trained = told(program)
    print(
        f"the train machine killed: resumed at steps {trained['resumed']}, {time.monotonic() - at:.0f} s from its death "
        f"to the end, {started_s:.1f} s of it a new machine's start; {trained['took_s']:.0f} s in all"
    )
    assert len(trained["resumed"]) == 1
    assert trained["losses"] == pytest.approx(golden_losses(), rel=1e-3)


@pytest.mark.usefixtures("serving")
@pytest.mark.skipif(not redis.IS_INSTALLED, reason="no redis-server here (Debian: redis-server)")
@pytest.mark.parametrize("name", ["data", "train", "serve2", "serve", "head"])
def test_machines_are_restarted_in_turn(cluster: NetworkedCluster, gaps: list[float], name: str) -> None:
    """As an upgrade does it: each is told to end, and a new one joins before the next one's turn."""
    with users(cluster, gaps, "serve2" if name == "serve" else "serve") as clients:
        clients.wait_for(20)
        since, ended_s = time.time(), cluster.end(name)
        started_s = cluster.start(name)
        with Watch(cluster) as watch:
            back_s = watch.until(lambda state: whole(state) and len(state["alive"]) == len(POOL_OF))
        clients.wait_for(20)
    report(f"{name} restarted", clients, since, time.time())
    print(f"{name} ended in {ended_s:.1f} s, started in {started_s:.1f} s, whole {back_s:.1f} s after")


@pytest.mark.usefixtures("serving")
@pytest.mark.skipif(not redis.IS_INSTALLED, reason="no redis-server here (Debian: redis-server)")
def test_the_head_dies_during_a_rollout(cluster: NetworkedCluster, storage: LocalStorage, gaps: list[float]) -> None:
    """Its state is in Redis: the machines that go on serving are found again, and the rollout's controller resumes."""
    with users(cluster, gaps) as clients:
        clients.wait_for(20)
        rollout = cluster.ask("rollout", str(storage.root))
        wait_for(lambda: status_of(storage, rollout).weight_applied_at is not None, "the canary's first share")
        since, _ = time.time(), cluster.kill("head")
        threading.Event().wait(HEADLESS_S)  # what is tested is a span of time
        started_s = cluster.start("head")
        with Watch(cluster) as watch:
            back_s = watch.until(lambda state: whole(state) and len(state["alive"]) == len(POOL_OF))
        wait_for(lambda: status_of(storage, rollout).ended, "the rollout's end")
        clients.wait_for(40)
    report(f"the head killed, another after {HEADLESS_S:.0f} s", clients, since, time.time())
    status = status_of(storage, rollout)
    print(f"a new head started in {started_s:.1f} s, whole {back_s:.1f} s after; {status.phase}")
    assert status.phase == "promoted"
