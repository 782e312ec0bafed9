"""Five machines with addresses of their own: stages land on their pools; a cut network and machines that die change no result.

SERINUS_MACHINES=1 pytest tests/chaos/test_networked.py -s     # as root; prints the times of docs/architecture.md
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from cluster.storage import LocalStorage
from services.rollout import controller
from services.rollout.status import RolloutStatus
from tests.chaos.network import is_possible
from tests.chaos.networked_world import NetworkedCluster, Watch, told
from tests.chaos.prometheus import IS_INSTALLED, Prometheus
from tests.chaos.serving_world import NAME, NUM_GATEWAYS
from tests.chaos.test_train_kill import registered, wait_for
from tests.integration.clients import Clients
from tests.integration.gateway_world import eventually
from tests.integration.training_case import GOLDEN

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(1_800),  # the first one has five nodes started for it
    pytest.mark.skipif(
        not os.environ.get("SERINUS_MACHINES"), reason="five nodes, twenty minutes: set SERINUS_MACHINES=1"
    ),
    pytest.mark.skipif(not is_possible(), reason="needs to be root and `ip`, to make network namespaces"),
]
CUT_S = 30.0
NUM_MODELS = 4
NUM_FILES, FILE_CHARACTERS = 24, 1_500_000


@pytest.fixture(scope="module")
def cluster() -> Iterator[NetworkedCluster]:
    cluster = NetworkedCluster()
    try:
        cluster.up()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> LocalStorage:
    return LocalStorage(tmp_path_factory.mktemp("networked"))


@pytest.fixture(scope="module")
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


def whole(state: dict[str, object]) -> bool:
    return (state["models"], state["gateways"]) == (NUM_MODELS, NUM_GATEWAYS)


def ended(storage: LocalStorage) -> RolloutStatus | None:
    status = controller.status(storage, NAME)
    return status if status and status.ended else None


def report(what: str, clients: Clients, since: float, until: float) -> None:
    """Prints what users met between two moments (time.time()); fails if a request was lost."""
    seen = [one for one in clients.seen if one.ended_at >= since and one.began_at <= until]
    lost, broken = [one for one in seen if one.lost], [one for one in seen if one.problem and one.num_tokens]
    longest = max(one.ended_at - one.began_at for one in seen)
    print(f"{what}: {len(seen)} requests, {len(lost)} lost, {len(broken)} streams broken, the longest {longest:.1f} s")
    assert len(seen) > 20
    assert lost == []


@pytest.mark.usefixtures("serving")
def test_serve_is_cut_from_the_head_during_a_rollout(
    cluster: NetworkedCluster, watch: Watch, storage: LocalStorage
) -> None:
    """Both serve machines: nobody there reaches the head, clients reach them."""
    with Clients(cluster.url("serve"), NAME, num=4, pause_s=0.2) as clients:
        clients.wait_for(20)
        cluster.ask("rollout", str(storage.root))
        wait_for(lambda: controller.status(storage, NAME).weight_applied_at is not None, "the canary's first share")
        since = time.time()
        with cluster.network.cut("head", "serve"), cluster.network.cut("head", "serve2"):
            threading.Event().wait(CUT_S)  # what is tested is a span of time
        healed_at, healed = time.time(), time.monotonic()
        back_s = watch.until(lambda state: whole(state) and len(state["alive"]) == 5, healed)
        wait_for(lambda: ended(storage) is not None, "the rollout's end")
        took_s = time.monotonic() - healed
        clients.wait_for(40)
    report(f"serve cut from head for {CUT_S:.0f} s", clients, since, healed_at)
    report("after it", clients, healed_at, time.time())
    status = ended(storage)
    assert status is not None
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
def test_a_serve_machine_dies_under_load(cluster: NetworkedCluster, watch: Watch) -> None:
    """The other one's gateways are asked: those of the dead one take their connections along."""
    with Clients(cluster.url("serve"), NAME, num=4, pause_s=0.2) as clients:
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
    assert trained["losses"] == pytest.approx(json.loads(GOLDEN.read_text()), rel=1e-3)


def test_the_data_machine_dies_while_it_cleans(cluster: NetworkedCluster, storage: LocalStorage, texts: Path) -> None:
    undisturbed = cluster.ask("clean", str(storage.root / "calm"), str(texts))
    program = cluster.begin("clean", str(storage.root / "disturbed"), str(texts))
    wait_for(lambda: cluster.works("data"), "work on the data machine")
    at = cluster.kill("data")
    assert program.poll() is None
    started_s = cluster.start("data")
    disturbed = told(program)
    recovered_s = time.monotonic() - at
    print(
        f"the data machine killed: {disturbed['took_s']:.0f} s, undisturbed {undisturbed['took_s']:.0f} s; "
        f"{recovered_s:.0f} s from its death to the end, {started_s:.1f} s of it a new machine's start; {disturbed['summary']}"
    )
    assert disturbed["files"] == undisturbed["files"]


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
    assert trained["losses"] == pytest.approx(json.loads(GOLDEN.read_text()), rel=1e-3)
