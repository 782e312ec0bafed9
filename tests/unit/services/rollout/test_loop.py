"""Rollouts from start to end on the test's own clock: forward, back, by hand, and killed between any two writes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cluster import registry
from cluster.artifacts import Revision
from cluster.errors import StageFailed, UserError
from cluster.storage import LocalStorage, Storage
from services.config import RolloutConfig, ServingConfig, StepConfig
from services.contract import RequestRecord, Traffic, read_traffic, write_traffic
from services.engines import Order, change_order, read_engines
from services.rollout.loop import Loop
from services.rollout.replay import replay
from services.rollout.status import RolloutStatus, read_status

STABLE, CANDIDATE = "m-00000001", "m-00000002"
CONFIG = RolloutConfig(
    steps=(
        StepConfig(weight_percent=10, min_requests=10, min_duration_s=4, prove="none"),
        StepConfig(weight_percent=50, min_requests=10, min_duration_s=4, error_effect_percent=20),
    ),
    interval_s=1,
    drain_s=3,
    step_timeout_s=60,
)


class Killed(BaseException):
    """The process is gone."""


class MortalStorage(LocalStorage):
    """Kills the process before or after its `life`-th write."""

    def __init__(self, root: Path, life: int = 10**9, before: bool = True) -> None:
        super().__init__(root)
        self.life, self.before, self.num_writes = life, before, 0

    def write(self, key: str, content: bytes, *, expect: str | None = None) -> str:
        self.num_writes += 1
        if self.num_writes == self.life and self.before:
            raise Killed
        version = super().write(key, content, expect=expect)
        if self.num_writes == self.life:
            raise Killed
        return version


class FakeApplications:
    def __init__(self, storage: LocalStorage) -> None:
        self.storage = storage
        self.loaded, self.removed = {STABLE, CANDIDATE}, []
        self.num_replicas: dict[str, int] = {}
        self.told: list[str] = []
        self.most = 1
        self.broken, self.num_loads = set(), 0

    def running(self) -> set[str]:
        return set(self.loaded)

    def remove(self, revision: str) -> None:
        self.loaded.remove(revision)
        self.removed.append(revision)
        change_order(self.storage, "m", revision, lambda order: Order())

    def replicas(self, engine: str) -> int:
        return self.num_replicas.get(engine, 1)

    def tell(self, engine: str) -> int:
        self.told.append(engine)
        return self.most

    def load(self, revision: Revision, serving: ServingConfig, storage: Storage) -> None:
        if revision.revision in self.broken:
            raise StageFailed(f"{revision.revision} does not load")
        self.loaded.add(revision.revision)
        self.num_loads += 1


class World:
    """Storage, two gateways and their users, and the one thing that moves: time, half a second at a time."""

    def __init__(self, root: Path) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.root = root
        self.storage = LocalStorage(root)
        self.applications = FakeApplications(self.storage)
        self.canary_harmful = self.canary_slow = False
        self.applied = {"g1": 1, "g2": 1}
        self.num_requests = 0
        self.traffic_seen: list[tuple[str, str | None, float]] = []
        for number in (1, 2):
            names = {"name": "m", "revision": f"m-{number:08x}", "weights": "w"}
            registry.publish_revision(self.storage, Revision(key=f"{number:016x}", **names))
        registry.move_aliases(self.storage, "m", {"stable": STABLE, "candidate": CANDIDATE})
        write_traffic(self.storage, Traffic(name="m", stable=STABLE, changed_at=self.now))
        self.loop = self.process(self.storage)

    def process(self, storage: LocalStorage) -> Loop:
        return Loop(storage, "m", self.applications, lambda: self.now)

    @property
    def traffic(self) -> Traffic:
        found = read_traffic(self.storage, "m")
        assert found is not None
        return found[0]

    @property
    def status(self) -> RolloutStatus:
        found = read_status(self.storage, "m")
        assert found is not None
        return found[0]

    def start(self, config: RolloutConfig = CONFIG, keep: int = 1) -> str:
        self.run(3)
        self.storage.write("items", b"")
        return self.loop.start(config, CANDIDATE, keep, "ann", "items")

    def run(self, seconds: float) -> None:
        for _ in range(int(seconds * 2)):
            self.turn()

    def turn(self) -> None:
        self.now += timedelta(seconds=0.5)
        traffic = self.traffic
        seen = (traffic.stable, traffic.canary, traffic.weight_percent)
        if seen not in self.traffic_seen[-1:]:
            self.traffic_seen.append(seen)
        for gateway in self.applied:
            self.applied[gateway] = traffic.version
            self.loop.record(gateway, traffic.version, [r.model_dump(mode="json") for r in self._requests(traffic)])
        for _ in range(10):
            pause_s = self.loop.tick()
            if pause_s != 0:
                break

    def _requests(self, traffic: Traffic) -> Iterator[RequestRecord]:
        for place in range(10):
            self.num_requests += 1
            on_canary = traffic.canary is not None and place * 10 < traffic.weight_percent
            yield RequestRecord(
                request_id=str(self.num_requests),
                revision=str(traffic.canary) if on_canary else traffic.stable,
                role="canary" if on_canary else "stable",
                bucket=(place + self.num_requests * 0.618 % 1) / 10,  # each request another user's
                outcome="http_error" if on_canary and self.canary_harmful else "ok",
                status=500 if on_canary and self.canary_harmful else 200,
                ttft_s=3.0 if on_canary and self.canary_slow else 0.1,
                duration_s=3.5,
                num_output_chunks=3,
                at=self.now,
            )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "storage")


def test_a_good_candidate_goes_forward_step_by_step_to_stable(world: World) -> None:
    world.start()
    world.run(40)
    assert world.traffic_seen == [
        (STABLE, None, 0.0),
        (STABLE, CANDIDATE, 10.0),
        (STABLE, CANDIDATE, 50.0),
        (CANDIDATE, None, 0.0),
    ]
    assert registry.aliases(world.storage, "m") == {"stable": CANDIDATE, "previous": STABLE}
    assert world.status.phase == "promoted"
    assert [(d.action, d.verdict, d.weight_percent) for d in world.status.decisions] == [
        ("set_weight", "inconclusive", 10),
        ("set_weight", "passed", 50),
        ("promote", "passed", 100),
    ]
    assert all(d.weight_applied_at and d.weight_applied_at >= d.at for d in world.status.decisions)
    assert world.applications.removed == []


@pytest.mark.parametrize(("keep", "removed"), [(0, [STABLE]), (1, [])])
def test_a_promotion_keeps_as_many_old_revisions_as_asked(world: World, keep: int, removed: list[str]) -> None:
    world.start(keep=keep)
    world.run(40)
    assert world.applications.removed == removed


@pytest.mark.parametrize("fault", ["canary_harmful", "canary_slow"])
def test_a_bad_candidate_is_out_before_anything_else_happens(world: World, fault: str) -> None:
    setattr(world, fault, True)
    world.start()
    while world.status.phase == "progressing":
        world.turn()
    assert (world.traffic.canary, world.traffic.weight_percent, world.traffic.stable) == (None, 0.0, STABLE)
    assert world.applications.removed == []
    world.run(20)
    status = world.status
    assert status.phase == "rolled_back"
    assert status.decisions[-1].reason == ("error_rate" if fault == "canary_harmful" else "latency")
    assert status.weight_applied_at is not None
    assert status.decided_at is not None
    assert (status.weight_applied_at - status.decided_at).total_seconds() <= 2
    assert status.ended_at is not None
    assert (status.ended_at - status.weight_applied_at).total_seconds() >= CONFIG.drain_s
    assert world.applications.removed == [CANDIDATE]
    assert registry.aliases(world.storage, "m") == {"stable": STABLE}


def test_a_candidate_that_answers_worse_is_out_though_nothing_fails(world: World) -> None:
    world.start(CONFIG.replace(steps=(StepConfig(weight_percent=10, min_requests=10**6),), step_timeout_s=600))
    for number in range(120):
        items = [{"item": f"{number}-{k}", "stable": 1.0, "canary": float(k > 0), "at": world.now} for k in range(4)]
        world.loop.score(items)
        world.turn()
    assert (world.status.decisions[-1].reason, world.status.decisions[-1].verdict) == ("quality", "failed")


def score(world: World, rollout: str, names: range, canary: float = 1.0) -> None:
    items = [{"item": f"set/{n}", "stable": 1.0, "canary": canary, "at": world.now} for n in names]
    world.loop.score(items, rollout)


def test_quality_is_proven_once_for_all_steps(world: World) -> None:
    step = StepConfig(weight_percent=10, min_requests=10, min_duration_s=2, prove="quality")
    rollout = world.start(CONFIG.replace(steps=(step, step.replace(weight_percent=50))))
    world.run(8)
    assert "scores are not down by 5 points (about" in world.status.last_look.message  # type: ignore[union-attr]
    for number in range(0, 200, 10):
        score(world, rollout, range(number, number + 10))
        world.turn()
    world.run(20)
    assert world.status.phase == "promoted"
    assert [look.same for look in replay(world.storage, world.status)] == [True, True]


def test_the_prober_is_told_what_is_known_and_answers_to_another_rollout_do_not_count(world: World) -> None:
    assert world.loop.probe_task() is None
    world.run(3)
    rollout = world.loop.start(CONFIG, CANDIDATE, 1, "ann", "items")
    world.run(1)
    score(world, rollout, range(3))
    score(world, "an earlier one", range(9), canary=0.0)
    task = world.loop.probe_task()
    assert task is not None
    assert (task.revisions, task.known) == ((STABLE, CANDIDATE), {"set/0", "set/1", "set/2"})
    world.loop = world.process(world.storage)
    assert world.loop.probe_task() is not None
    world.loop.abort("bob")
    assert world.loop.probe_task() is None


def test_a_verdict_from_scores_comes_out_the_same_again(world: World) -> None:
    rollout = world.start(
        CONFIG.replace(steps=(StepConfig(weight_percent=10, min_requests=10**6),), step_timeout_s=600)
    )
    for number in range(0, 200, 10):
        score(world, rollout, range(number, number + 10), canary=float(number % 20 > 0))
        world.turn()
    world.run(10)
    assert (world.status.decisions[-1].reason, world.status.phase) == ("quality", "rolled_back")
    assert all(look.same for look in replay(world.storage, world.status))


def test_a_step_without_canary_traffic_times_out_and_goes_back(world: World) -> None:
    config = CONFIG.replace(steps=(StepConfig(weight_percent=0.001, min_requests=100),), step_timeout_s=10)
    world.start(config)
    world.run(25)
    assert (world.status.phase, world.status.decisions[-1].reason) == ("rolled_back", "inconclusive")


def test_a_gateway_that_does_not_follow_keeps_the_old_revision_running(world: World) -> None:
    world.start()
    world.run(2)
    world.loop.abort("bob")
    for _ in range(40):
        world.turn()
        world.loop.record("behind", 1, [])
    assert world.status.phase == "rolling_back"
    assert world.applications.removed == []
    world.run(12)
    assert (world.status.phase, world.applications.removed) == ("aborted", [CANDIDATE])


def test_a_person_takes_it_out(world: World) -> None:
    world.start()
    world.run(2)
    world.loop.abort("bob")
    world.run(10)
    assert (world.status.phase, world.status.decisions[-1].who) == ("aborted", "bob")
    assert world.traffic.canary is None


def test_a_person_promotes(world: World) -> None:
    world.start()
    world.run(1)
    world.loop.promote("bob")
    world.run(10)
    assert (world.status.phase, world.traffic.stable) == ("promoted", CANDIDATE)


def test_a_weight_set_by_hand_holds_and_harm_still_rolls_back(world: World) -> None:
    world.start()
    world.loop.set_weight(30, "bob")
    world.run(30)
    assert (world.traffic.weight_percent, world.status.phase, world.status.held) == (30, "progressing", True)
    world.canary_harmful = True
    world.run(15)
    assert world.status.phase == "rolled_back"


def test_everybody_on_the_canary_is_judged_by_what_stable_did_before(world: World) -> None:
    steps = (
        StepConfig(weight_percent=50, min_requests=5, min_duration_s=1, prove="none"),
        StepConfig(weight_percent=100, min_requests=5),
    )
    world.start(CONFIG.replace(steps=steps))
    world.run(10)
    assert world.traffic.weight_percent == 100
    world.canary_harmful = True
    world.run(15)
    assert world.status.phase == "rolled_back"
    assert "before, nobody is on it now" in world.status.decisions[-1].message


def test_stable_changed_by_someone_else_ends_the_rollout_and_stays(world: World) -> None:
    world.start()
    world.run(2)
    found = read_traffic(world.storage, "m")
    assert found is not None
    write_traffic(world.storage, found[0].replace(stable="m-other", version=found[0].version + 1), expect=found[1])
    world.run(10)
    assert (world.status.phase, world.status.decisions[-1].reason) == ("rolled_back", "stable_changed")
    assert (world.traffic.stable, world.traffic.canary) == ("m-other", None)


def test_a_weight_changed_behind_the_back_is_put_right(world: World) -> None:
    world.start()
    world.run(2)
    found = read_traffic(world.storage, "m")
    assert found is not None
    write_traffic(world.storage, found[0].replace(weight_percent=99, version=found[0].version + 1), expect=found[1])
    world.run(2)
    assert world.traffic.weight_percent == 10


def test_one_rollout_at_a_time(world: World) -> None:
    world.start()
    with pytest.raises(UserError, match="is under way"):
        world.loop.start(CONFIG, CANDIDATE, 1, "bob")


@pytest.mark.parametrize("call", ["set_weight", "promote"])
def test_without_a_rollout_nothing_is_moved(world: World, call: str) -> None:
    with pytest.raises(UserError, match="no rollout is in progress"):
        getattr(world.loop, call)(*([5] if call == "set_weight" else []), "bob")
    assert world.traffic.version == 1


@pytest.mark.parametrize("weight", [-1, 100.5, float("nan")])
def test_a_weight_that_is_no_percentage_is_refused(world: World, weight: float) -> None:
    world.start()
    with pytest.raises(UserError, match="is no share"):
        world.loop.set_weight(weight, "bob")


@pytest.mark.parametrize(
    ("revision", "found"), [(STABLE, "is stable already"), ("m-unknown", "is not in the registry")]
)
def test_what_cannot_be_a_candidate_is_refused(world: World, revision: str, found: str) -> None:
    with pytest.raises(UserError, match=found):
        world.loop.start(CONFIG, revision, 1, "ann")
    assert read_status(world.storage, "m") is None


def test_outside_a_rollout_going_back_is_a_pointer_move_to_what_is_loaded(world: World) -> None:
    with pytest.raises(UserError, match="no previous revision"):
        world.loop.abort("bob")
    world.start()
    world.run(40)
    assert world.loop.abort("bob") is None
    assert (world.traffic.stable, world.traffic.canary) == (STABLE, None)
    assert registry.aliases(world.storage, "m") == {"stable": STABLE, "previous": CANDIDATE}
    world.applications.loaded.remove(CANDIDATE)
    with pytest.raises(UserError, match="no longer loaded"):
        world.loop.abort("bob")


def test_evidence_survives_as_parquet_and_counts_no_request_twice(world: World) -> None:
    import pyarrow.parquet as pq

    rollout = world.start()
    world.run(40)
    keys = [key for key in world.storage.list(f"rollouts/m/{rollout}") if key.endswith(".parquet")]
    ids = [i for key in keys for i in pq.read_table(str(world.root / key))["request_id"].to_pylist()]
    assert len(ids) == len(set(ids)) > 100


def story(world: World) -> tuple[list[str], list[str], list[tuple[str, str | None]], int, list[str]]:
    """What must come out the same however often the process died."""
    status = world.status
    moves = [(move.alias, move.new) for move in registry.alias_history(world.storage, "m")]
    return (
        [d.action for d in status.decisions],
        [status.phase],
        moves,
        world.traffic.version,
        world.applications.removed,
    )


@pytest.mark.parametrize("bad", [False, True], ids=["promotion", "rollback"])
@pytest.mark.parametrize("before", [True, False], ids=["before a write", "after a write"])
def test_killed_at_any_write_it_resumes_without_repeating_or_skipping_an_act(
    tmp_path: Path, bad: bool, before: bool
) -> None:
    undisturbed = World(tmp_path / "undisturbed")
    counting = MortalStorage(undisturbed.root)
    expected = _rollout(undisturbed, counting, bad)
    assert counting.num_writes > 8
    for life in range(1, counting.num_writes + 1):
        world = World(tmp_path / f"killed-{life}")
        assert _rollout(world, MortalStorage(world.root, life, before), bad) == expected, f"killed at write {life}"


def _rollout(world: World, storage: MortalStorage, bad: bool) -> object:
    world.start(CONFIG.replace(steps=CONFIG.steps[:1]), keep=0)
    world.canary_harmful = bad
    world.loop = world.process(storage)
    for _ in range(80):
        try:
            world.turn()
        except Killed:
            world.loop = world.process(world.storage)
    assert world.status.ended
    return story(world)


def test_an_adapter_goes_and_its_engine_stays(world: World) -> None:
    adapter = Revision(key=f"{3:016x}", name="m", revision="m-3", weights="w", base=STABLE, adapter="folder")
    registry.publish_revision(world.storage, adapter)
    world.applications.loaded.add("m-3")
    world.run(3)
    world.loop.start(CONFIG, "m-3", 0, "ann")
    world.loop.promote("ann")
    world.run(10)
    assert world.traffic.stable == "m-3"
    assert world.applications.removed == []  # nothing is to be kept, yet the adapter needs its base's engine
    world.loop.start(CONFIG, CANDIDATE, 0, "ann")
    world.loop.promote("ann")
    world.run(10)
    assert world.traffic.stable == CANDIDATE
    assert set(world.applications.removed) == {"m-3", STABLE}


def order(world: World, engine: str) -> Order:
    return read_engines(world.storage, "m").order(engine)


def test_a_step_up_waits_for_its_replicas_and_harm_is_still_seen_meanwhile(world: World) -> None:
    world.applications.most, world.applications.num_replicas[STABLE] = 8, 4
    world.start()
    world.run(8)
    assert (world.status.weight_percent, world.traffic.weight_percent) == (50, 10)  # decided, and not yet in force
    assert order(world, CANDIDATE).floor == 4
    world.run(5)
    assert world.traffic.weight_percent == 10
    world.applications.num_replicas[CANDIDATE] = 4
    world.run(1)
    assert world.traffic.weight_percent == 50

    world.loop.set_weight(80, "ann")
    world.applications.num_replicas[STABLE] = 2  # half of the users have left it
    world.run(1)
    assert (order(world, CANDIDATE).floor, world.traffic.weight_percent) == (4, 80)


def test_harm_while_replicas_start_takes_the_candidate_out_and_stable_gets_replicas_back(world: World) -> None:
    world.applications.most, world.applications.num_replicas = 8, {STABLE: 4, CANDIDATE: 2}
    world.start()
    world.run(8)
    assert (world.status.weight_percent, world.traffic.weight_percent) == (50, 10)
    world.canary_harmful = True
    world.run(3)
    assert world.status.phase == "rolling_back"
    assert order(world, STABLE).floor == 6
    world.run(5)
    assert world.status.phase == "rolled_back"
    assert order(world, STABLE) == Order()


def test_replicas_that_never_come_end_the_step_as_inconclusive(world: World) -> None:
    world.applications.most, world.applications.num_replicas[STABLE] = 8, 4
    world.start()
    world.run(75)
    assert (world.status.phase, world.status.decisions[-1].reason) == ("rolled_back", "inconclusive")
    assert "replicas" in world.status.decisions[-1].message


def test_a_person_who_promotes_waits_for_replicas_at_most_ten_minutes(world: World) -> None:
    world.applications.most, world.applications.num_replicas[STABLE] = 8, 4
    world.start()
    world.run(1)
    world.loop.promote("ann")
    world.run(5)
    assert (world.status.phase, world.traffic.stable) == ("promoting", STABLE)
    world.now += timedelta(seconds=600)
    world.run(5)
    assert (world.status.phase, world.traffic.stable) == ("promoted", CANDIDATE)


def test_a_promotion_that_waits_for_replicas_can_still_be_turned_back(world: World) -> None:
    world.applications.most, world.applications.num_replicas[STABLE] = 8, 4
    world.start()
    world.run(1)
    world.loop.promote("ann")
    world.run(2)
    world.loop.abort("bob")
    world.run(30)
    assert (world.status.phase, world.traffic.stable, world.traffic.canary) == ("aborted", STABLE, None)


def test_harm_turns_a_promotion_back_that_waits_for_replicas(world: World) -> None:
    world.start()
    world.run(1)
    world.applications.most, world.applications.num_replicas[STABLE] = 8, 4
    world.loop.promote("ann")
    world.run(1)
    world.canary_harmful = True
    world.run(60)
    assert (world.status.phase, world.traffic.stable, world.traffic.canary) == ("rolled_back", STABLE, None)


def test_a_lower_weight_waits_for_no_replicas(world: World) -> None:
    world.start()
    world.loop.set_weight(50, "ann")
    world.run(2)
    world.applications.most = 0  # none of the canary's answers
    world.loop.set_weight(5, "ann")
    world.run(2)
    assert (world.traffic.canary, world.traffic.weight_percent) == (CANDIDATE, 5)


def test_harm_is_found_while_serve_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.start()
    world.run(1)

    def away(engine: str) -> int:
        raise ConnectionError("no controller")

    world.loop.set_weight(90, "ann")
    monkeypatch.setattr(world.applications, "replicas", away)
    world.canary_harmful = True
    world.run(60)
    assert (world.traffic.stable, world.traffic.canary) == (STABLE, None)


def test_the_replaced_revision_rests_is_woken_to_go_back_and_is_stopped_in_the_end(world: World) -> None:
    world.start(CONFIG.replace(keep_warm_s=100))
    world.loop.promote("ann")
    world.run(10)
    rested_at = order(world, STABLE).resting_since
    assert (world.status.phase, rested_at is not None) == ("promoted", True)

    world.loop.abort("bob")
    assert world.traffic.stable == STABLE
    assert "woken in" in world.traffic.reason
    assert order(world, STABLE) == Order()
    rested_at = order(world, CANDIDATE).resting_since
    assert rested_at == world.now

    world.run(90)
    assert world.applications.removed == []
    assert world.loop.tick() is None  # what looks after a promotion has its turn when no rollout is under way
    world.run(11)
    assert world.applications.removed == [CANDIDATE]


def test_a_revision_at_rest_may_be_a_candidate_again(world: World) -> None:
    world.start()
    world.loop.promote("ann")
    world.run(10)
    world.loop.start(CONFIG, STABLE, 1, "ann")
    world.run(2)
    assert (world.traffic.canary, order(world, STABLE).resting_since) == (STABLE, None)
