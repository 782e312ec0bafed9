"""A lifecycle's node hours: counted by a clock that is passed in, kept over runs, and the end of them."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from cluster import artifacts, pools
from cluster.artifacts import Checkpoint, GateReport
from cluster.errors import GateFailed, InputError, ResourceError
from cluster.storage import LocalStorage
from cluster.topology import POOL_LABEL
from pipelines import lifecycle, node_hours
from pipelines.config import LifecycleConfig, Stage
from pipelines.evaluation.model_card import card
from pipelines.evaluation.report import of_gate
from pipelines.evaluation.report_page import page
from pipelines.lifecycle import Run
from pipelines.node_hours import Held, NodeHours
from pipelines.spending import BudgetExceeded, accounts, of_verdict
from pipelines.training.ledger import ledger
from serinus import app

HOUR = 3600.0


def recipe(**fields: Any) -> LifecycleConfig:
    return LifecycleConfig.model_validate(
        {
            "name": "m",
            "storage": "s",
            "data": {"sources": [{"path": "texts"}]},
            "model": {"source": "model"},
            "evaluate": {"tasks": [{"name": "p", "kind": "perplexity"}]},
            "budget": {"node_hours": 10},
        }
        | fields
    )


class Cluster:
    """A clock, and as many nodes in each pool as there are said to be."""

    def __init__(self, **nodes: int) -> None:
        self.now, self.nodes = 0.0, nodes
        self.asked: list[set[str]] = []

    def count(self, pools: Collection[str]) -> dict[str, int]:
        self.asked.append(set(pools))
        return {pool: self.nodes[pool] for pool in pools}

    def hours_of(self, storage: LocalStorage, **fields: Any) -> NodeHours:
        return NodeHours(recipe(**fields), storage, self.count, lambda: self.now)

    def work(self, counted: NodeHours, stage: Stage, hours: float) -> None:
        with counted.held(stage, stage):
            self.now += hours * HOUR


@pytest.fixture
def cluster() -> Cluster:
    return Cluster(data=2, train=3, serve=1)


def test_nodes_that_come_and_go_count_for_as_long_as_they_were_seen() -> None:
    cluster = Cluster(train=0)
    held = Held(lambda: cluster.count(["train"]), lambda: cluster.now, ["train"])
    for now, nodes in ((100.0, 4), (160.0, 4), (170.0, 1), (200.0, 0), (900.0, 0)):
        cluster.now, cluster.nodes["train"] = now, nodes
        held.look()
    assert held.node_s == 4 * 70 + 1 * 30
    assert held.most == 4


@pytest.mark.parametrize(
    ("pool_of", "asked", "counted"),
    [
        ({"1": "head", "2": "data", "3": "train"}, ("train", "data"), {"data": 1, "train": 1}),
        ({"1": "head", "2": "train", "3": "train"}, ("train", "data"), {"train": 2}),  # tokenised there, too
        ({"1": "head", "2": "train", "3": "serve"}, ("data",), {"train": 1, "serve": 1}),
        ({"1": "", "2": ""}, ("train", "data"), {"train": 2}),
        ({"1": "head"}, ("train",), {"train": 1}),
    ],
)
def test_a_machine_counts_for_the_pool_that_it_belongs_to(
    pool_of: dict[str, str], asked: tuple[str, ...], counted: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def hosts(selector: dict[str, str]) -> list[str]:
        return [host for host, pool in pool_of.items() if selector.get(POOL_LABEL, pool) == pool]

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: True))
    monkeypatch.setattr(pools, "has_pool", lambda pool: pool in pool_of.values())
    monkeypatch.setattr(pools, "node_hosts", hosts)
    assert node_hours.nodes_of(asked) == counted


def test_where_nodes_cannot_be_counted_the_last_number_holds(capsys: pytest.CaptureFixture[str]) -> None:
    cluster = Cluster(train=2)
    held = Held(lambda: cluster.count(["train"]), lambda: cluster.now, ["train"])
    del cluster.nodes["train"]
    cluster.now = 10.0
    held.look()
    cluster.now = 20.0
    held.look()
    assert held.node_s == 40
    assert "2 are assumed" in capsys.readouterr().err


def test_stages_are_counted_on_the_pools_that_they_ask_for(storage: LocalStorage, cluster: Cluster) -> None:
    counted = cluster.hours_of(storage)
    for stage, hours in (("clean", 1.0), ("train", 1.0), ("evaluate", 2.0), ("quantize", 0.5), ("gate", 1.0)):
        cluster.work(counted, stage, hours)  # type: ignore[arg-type]  # str
    assert counted.account.by_stage == {"clean": 2.0, "train": 5.0, "evaluate": 2.0, "quantize": 2.0}
    assert {"data"} in cluster.asked
    assert {"data", "train"} in cluster.asked


def test_it_stops_between_stages_and_goes_on_where_the_budget_is_raised(
    storage: LocalStorage, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    counted = cluster.hours_of(storage)
    cluster.work(counted, "clean", 1)
    cluster.work(counted, "train", 4)  # 20 of them: a stage that is at work is not broken off
    with pytest.raises(
        BudgetExceeded, match=r"of 10 node hours 22 \(clean 2, train 20\) are spent; stopped before ev"
    ) as no:
        cluster.work(counted, "evaluate", 1)
    assert no.value.exit_code == 2
    with pytest.raises(BudgetExceeded):  # a run that is tried again does not begin at nothing
        cluster.work(cluster.hours_of(storage), "clean", 1)
    with counted.held("gate", "gate"):
        pass  # nothing is held for it
    raised = cluster.hours_of(storage, budget={"node_hours": 23})
    cluster.work(raised, "evaluate", 1)
    with pytest.raises(BudgetExceeded):
        cluster.work(raised, "quantize", 1)
    assert "22 (clean 2, train 20) of 23 node hours are spent by earlier runs" in capsys.readouterr().err


def test_what_fails_has_cost_as_much(storage: LocalStorage, cluster: Cluster) -> None:
    counted = cluster.hours_of(storage)

    def fail() -> None:
        with counted.held("train", "trained"):
            cluster.now += HOUR
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert cluster.hours_of(storage).account.node_hours == 5


def test_another_recipe_or_another_verdict_has_another_account(storage: LocalStorage, cluster: Cluster) -> None:
    counted = cluster.hours_of(storage)
    cluster.work(counted, "train", 1)
    assert cluster.hours_of(storage, train={"seed": 8}).account.node_hours == 0
    assert cluster.hours_of(storage, budget=None, openlineage={"url": "http://x"}).account.node_hours == 5
    counted.close("digest", ())
    assert cluster.hours_of(storage).account.node_hours == 0
    found = of_verdict(storage, "m", "digest")
    assert found is not None
    assert found.node_hours == 5


def test_what_a_verdict_took_is_not_what_finding_it_again_takes(storage: LocalStorage, cluster: Cluster) -> None:
    for hours in (1.0, 2 / HOUR):
        counted = cluster.hours_of(storage)
        cluster.work(counted, "train", hours)
        counted.close("digest", ())
    assert len(list(accounts(storage, "m"))) == 2
    found = of_verdict(storage, "m", "digest")
    assert found is not None
    assert found.node_hours == 5


def test_what_is_made_already_costs_nothing_and_without_a_budget_nothing_stops(
    storage: LocalStorage, cluster: Cluster
) -> None:
    counted = cluster.hours_of(storage, budget=None)
    cluster.work(counted, "clean", 0.1 / HOUR)
    counted.close("digest", ())
    assert not list(accounts(storage, "m"))
    cluster.work(counted, "train", 1_000)
    cluster.work(counted, "train", 1_000)
    assert counted.account.node_hours == 10_000


def test_a_driver_that_is_killed_leaves_a_minute_out_at_most(
    storage: LocalStorage, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_hours, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(node_hours, "WRITE_EVERY_S", 0.0)
    counted = cluster.hours_of(storage)
    with counted.held("train", "trained"):
        cluster.now = HOUR
        while not list(accounts(storage, "m")):
            pass  # the thread writes it, while the stage is at work
        (written,) = accounts(storage, "m")
    assert written.node_hours == 5
    assert counted.account.node_hours == 5


def test_a_storage_that_does_not_answer_for_a_while_does_not_stop_the_counting(
    storage: LocalStorage, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(node_hours, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(node_hours, "WRITE_EVERY_S", 0.0)
    counted, tries, write = cluster.hours_of(storage), list[str](), storage.write

    def away(key: str, content: bytes, *, expect: str | None = None) -> str:
        tries.append(key)
        if len(tries) < 3:
            raise ResourceError("s3://bucket", "does not answer", "look at it")
        return write(key, content, expect=expect)

    monkeypatch.setattr(storage, "write", away)
    with counted.held("train", "trained"):
        cluster.now = HOUR
        deadline = time.monotonic() + 30
        while not list(accounts(storage, "m")):
            assert time.monotonic() < deadline, "the thread is gone"
    assert counted.account.node_hours == 5
    assert "the account is not written" in capsys.readouterr().err


def _saved(storage: LocalStorage, cluster: Cluster) -> None:
    cluster.now += HOUR
    storage.write("artifacts/checkpoint", b"")


def test_a_stage_that_storage_ended_is_told_as_that_and_not_as_its_account(
    storage: LocalStorage, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counted = cluster.hours_of(storage)

    def away(key: str, *_: object, **__: object) -> str:
        raise ResourceError("s3://bucket", f"does not answer of {key}", "look at it")

    monkeypatch.setattr(storage, "write", away)
    with pytest.raises(ResourceError, match="of artifacts/checkpoint"), counted.held("train", "trained"):
        _saved(storage, cluster)
    assert "the account is not written (s3://bucket: does not answer of spending/" in capsys.readouterr().err
    with pytest.raises(ResourceError, match="of spending/"), counted.held("train", "trained"):
        cluster.now += HOUR


def test_a_damaged_account_is_told(storage: LocalStorage, cluster: Cluster) -> None:
    counted = cluster.hours_of(storage)
    cluster.work(counted, "train", 1)
    storage.write(counted.account.key, b"{")
    with pytest.raises(InputError, match="restore the file"):
        cluster.hours_of(storage)


def test_the_lifecycle_stops_before_the_artifact_and_a_verdict_closes_the_account(
    storage: LocalStorage, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stages(asked: LifecycleConfig, storage: LocalStorage, work: Run) -> dict[str, Any]:
        def build() -> GateReport:
            cluster.now += HOUR
            return GateReport(key="k", outcome="failed")

        work.make("train", "trained", build)
        work.make("evaluate", "report", build)
        work.make("gate", "gate", build)
        raise GateFailed("no")

    monkeypatch.setattr(lifecycle, "_stages", stages)
    monkeypatch.setattr(lifecycle, "NodeHours", lambda *given: NodeHours(*given, cluster.count, lambda: cluster.now))
    with pytest.raises(BudgetExceeded, match="before evaluate"):
        lifecycle.run(recipe(budget={"node_hours": 4}), storage)
    with pytest.raises(GateFailed):
        lifecycle.run(recipe(budget={"node_hours": 20}), storage)
    (closed,) = accounts(storage, "m")
    assert closed.by_stage == {"train": 10.0, "evaluate": 1.0}
    assert closed.gate == GateReport(key="k", outcome="failed").digest


def test_that_the_gate_said_no_is_told_and_not_that_its_account_could_not_be_closed(
    storage: LocalStorage, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def away(key: str, *_: object, **__: object) -> str:
        raise ResourceError("s3://bucket", "does not answer", "look at it")

    def stages(asked: LifecycleConfig, storage: LocalStorage, work: Run) -> dict[str, Any]:
        cluster.work(cast(NodeHours, work.node_hours), "train", 1)
        work.made["gate"] = GateReport(key="k", outcome="failed")
        monkeypatch.setattr(storage, "write", away)
        raise GateFailed("no")

    monkeypatch.setattr(lifecycle, "_stages", stages)
    monkeypatch.setattr(lifecycle, "NodeHours", lambda *given: NodeHours(*given, cluster.count, lambda: cluster.now))
    with pytest.raises(GateFailed):
        lifecycle.run(recipe(), storage)
    assert "the account is not written (s3://bucket: does not answer" in capsys.readouterr().err
    (still_open,) = accounts(storage, "m")
    assert (still_open.gate, still_open.node_hours) == (None, 5)


def test_a_model_of_two_roles_is_billed_once(
    storage: LocalStorage, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the last one of progressive training."""
    told = ledger(
        num_parameters=1,
        num_tokens=1,
        tokens_per_s=1,
        trained_s=3600,
        device="x86_64 CPU",
        num_devices=1,
        precision="float32",
        watts_per_worker=70,
    )

    def stages(asked: LifecycleConfig, storage: LocalStorage, work: Run) -> dict[str, Any]:
        def build(key: str) -> Checkpoint:
            cluster.now += HOUR
            return Checkpoint(key=key, ledger=told)

        work.make("train", "trained_1_1", lambda: build("small"))
        last = work.make("train", "trained_2_1", lambda: build("large"))
        work.make("train", "trained", lambda: last)
        work.make("gate", "gate", lambda: GateReport(key="k", outcome="passed"))
        return {}

    monkeypatch.setattr(lifecycle, "_stages", stages)
    monkeypatch.setattr(lifecycle, "NodeHours", lambda *given: NodeHours(*given, cluster.count, lambda: cluster.now))
    lifecycle.run(recipe(budget=None), storage)
    (closed,) = accounts(storage, "m")
    assert closed.bill is not None
    assert closed.bill.charges[0].energy_wh == 140


def test_an_account_that_an_earlier_version_began_is_closed_with_all_its_hours(
    storage: LocalStorage, cluster: Cluster
) -> None:
    cluster.work(cluster.hours_of(storage), "clean", 1)
    (begun,) = accounts(storage, "m")
    as_before = begun.model_dump(mode="json", exclude={"bill": True, "spent": {"__all__": {"node_s_by_pool"}}})
    storage.write(begun.key, json.dumps(as_before).encode())
    counted = cluster.hours_of(
        storage, ledger={"nodes": {"data": {"price_per_hour": 1}, "train": {"price_per_hour": 2}}}
    )
    cluster.work(counted, "train", 1)
    counted.close("digest", ())
    assert counted.account.bill is not None
    clean, train = counted.account.bill.charges
    assert (clean.node_hours, train.node_hours) == (2, 5)
    assert (clean.money, train.money) == (None, 8)


@pytest.mark.parametrize(("hours", "is_told"), [(0.001, True), (1_000, False)])
def test_check_tells_of_a_budget_below_the_prediction(
    hours: float, is_told: bool, tiny_model: Any, tmp_path: Any
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"name: m\nstorage: {tmp_path}/s\ndata: {{sources: [{{path: texts}}]}}\nmodel: {{source: {tiny_model}}}\n"
        f"train: {{num_steps: 100000, zero: {{stage: 1}}}}\nevaluate: {{tasks: [{{name: p, kind: perplexity}}]}}\n"
        f"budget: {{node_hours: {hours}}}\n"
    )
    done = CliRunner().invoke(app, ["check", str(path)])
    assert done.exit_code == 0, done.output
    assert ("training alone is predicted to take" in done.output) is is_told


def test_the_report_shows_what_was_spent_until_the_verdict(storage: LocalStorage, cluster: Cluster) -> None:
    rates = {
        "pue": 1.2,
        "carbon_g_per_kwh": 0.4,
        "currency": "EUR",
        "nodes": {"data": {"watts": 100, "price_per_hour": 1.5}},
    }
    counted, gate = (
        cluster.hours_of(storage, ledger=rates),
        artifacts.save(storage, GateReport(key="k", outcome="failed")),
    )
    cluster.work(counted, "clean", 1)
    counted.close(gate.digest, ())
    found = of_gate(storage, "m", gate, ())
    assert found.spending == counted.account
    assert "<td>clean</td><td>2</td><td>200</td><td>0.096</td><td>3</td>" in re.sub(" class=[^>]*", "", page(found))
    assert "2 node hours, 200 Wh, 0.096 g CO2e, 3 EUR" in card(found)
