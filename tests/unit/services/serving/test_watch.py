"""The gateway's view: right from the first request, changed in one piece, kept through failed reads."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from cluster.storage import LocalStorage
from services.contract import Traffic, read_traffic, traffic_key, write_traffic
from services.engines import change_order
from services.serving.watch import LIVENESS_S, Alive, TrafficWatch


class Serve:
    """Tells which revisions answer, as of when it was asked."""

    def __init__(self, *revisions: str) -> None:
        self.revisions, self.down = set(revisions), False
        self.coming: set[str] = set()
        self.asleep: set[str] = set()
        self.meanwhile: Callable[[], None] | None = None

    def __call__(self) -> Alive:
        if self.down:
            raise ConnectionError("no controller")
        told = Alive(frozenset(self.revisions), frozenset(self.coming), frozenset(self.asleep))
        if self.meanwhile:
            self.meanwhile()
        return told


def put(storage: LocalStorage, **fields: object) -> None:
    present = read_traffic(storage, "m")
    traffic = {"name": "m", "stable": "m-1", "changed_at": datetime.now(UTC), **fields}
    write_traffic(storage, Traffic.model_validate(traffic), expect=present[1] if present else "")


def test_nothing_deployed_is_version_0(storage: LocalStorage) -> None:
    watch = TrafficWatch(storage, "m", Serve())
    watch.poll()
    assert watch.situation.traffic is None
    assert watch.version == 0


def test_a_change_is_seen_with_the_next_poll(storage: LocalStorage) -> None:
    serve = Serve("m-1")
    watch = TrafficWatch(storage, "m", serve)
    put(storage)
    watch.poll()
    put(storage, canary="m-2", weight_percent=1, version=2)
    serve.revisions.add("m-2")
    watch.poll()
    assert watch.version == 2
    assert watch.situation.answering == {"m-1", "m-2"}


def test_revisions_that_answer_are_reached_before_their_traffic_comes_into_force(storage: LocalStorage) -> None:
    serve, seen = Serve("m-1"), []
    watch = TrafficWatch(storage, "m", serve, reach=lambda revisions: seen.append((watch.version, revisions)))
    put(storage)
    watch.poll()
    put(storage, canary="m-2", weight_percent=1, version=2)
    watch.poll()
    serve.revisions.add("m-2")
    put(storage, canary="m-2", weight_percent=5, version=3)
    watch.poll()
    assert seen == [(0, {"m-1"}), (1, {"m-1"}), (2, {"m-1", "m-2"})]


def test_traffic_comes_into_force_though_its_revisions_cannot_be_reached(storage: LocalStorage) -> None:
    def reach(revisions: frozenset[str]) -> None:
        raise TimeoutError

    watch = TrafficWatch(storage, "m", Serve("m-1"), reach=reach)
    put(storage)
    watch.poll()
    assert watch.version == 1


def test_a_revision_that_stops_answering_is_noticed_by_the_next_check(storage: LocalStorage) -> None:
    serve = Serve("m-1", "m-2")
    watch = TrafficWatch(storage, "m", serve)
    put(storage, canary="m-2", weight_percent=1)
    watch.poll()
    serve.revisions.discard("m-2")
    watch.check()
    assert watch.situation.answering == {"m-1"}
    assert watch.version == 1


def test_a_revision_that_starts_again_is_away_since_it_was_first_missed(storage: LocalStorage) -> None:
    serve, now_s = Serve("m-1", "m-2"), iter([10.0, 11.0, 12.0, 13.0])
    watch = TrafficWatch(storage, "m", serve, clock=lambda: next(now_s))
    watch.check()
    serve.revisions, serve.coming = {"m-1"}, {"m-2"}
    watch.check()
    watch.check()
    assert watch.situation.away_since_s == {"m-2": 11.0}
    assert watch.situation.answering == {"m-1"}
    serve.revisions, serve.coming = {"m-1", "m-2"}, set()
    watch.check()
    assert watch.situation.away_since_s == {}


def test_a_change_is_told_once_it_is_in_force(storage: LocalStorage) -> None:
    told: list[int] = []
    watch = TrafficWatch(storage, "m", Serve("m-1"), changed=lambda: told.append(watch.version))
    put(storage)
    watch.poll()
    watch.poll()
    put(storage, version=2)
    watch.poll()
    assert told == [1, 2]


def test_a_rollback_does_not_wait_for_serve(storage: LocalStorage) -> None:
    serve = Serve("m-1", "m-2")
    watch = TrafficWatch(storage, "m", serve)
    put(storage, canary="m-2", weight_percent=1)
    watch.poll()
    serve.down = True
    put(storage, version=2)
    watch.poll()
    watch.check()
    assert watch.version == 2
    assert watch.situation.answering == {"m-1", "m-2"}


def test_a_check_that_began_before_a_change_does_not_undo_it(storage: LocalStorage) -> None:
    serve = Serve("m-1")
    watch = TrafficWatch(storage, "m", serve)
    put(storage)
    watch.poll()

    def change_meanwhile() -> None:
        serve.meanwhile = None
        put(storage, canary="m-2", weight_percent=1, version=2)
        serve.revisions.add("m-2")
        watch.poll()

    serve.meanwhile = change_meanwhile
    watch.check()
    assert watch.situation.answering == {"m-1", "m-2"}
    assert watch.version == 2


def test_a_read_that_fails_keeps_the_last_traffic_and_the_next_good_one_replaces_it(storage: LocalStorage) -> None:
    watch = TrafficWatch(storage, "m", Serve("m-1"))
    put(storage)
    watch.poll()
    before = watch.situation
    storage.write(traffic_key("m"), b"half a docu")
    watch.poll()
    assert watch.situation is before
    storage.write(
        traffic_key("m"),
        Traffic(name="m", stable="m-3", changed_at=datetime.now(UTC), version=3).model_dump_json().encode(),
    )
    watch.poll()
    assert watch.version == 3


def test_an_adapter_answers_as_long_as_its_engine_does(storage: LocalStorage) -> None:
    serve = Serve("m-1")
    watch = TrafficWatch(storage, "m", serve)
    change_order(storage, "m", "m-1", lambda order: order.replace(adapters={"m-2": "folder"}))
    put(storage, canary="m-2", weight_percent=1)
    watch.poll()
    assert watch.situation.answering == {"m-1", "m-2"}
    assert (watch.engine_of("m-2"), watch.engine_of("m-1")) == ("m-1", "m-1")
    serve.revisions.clear()
    watch.check()
    assert watch.situation.answering == frozenset()
    change_order(storage, "m", "m-1", lambda order: order.replace(adapters={}))
    watch.check()
    assert watch.engine_of("m-2") == "m-1"  # for what is under way


def test_a_revision_without_a_replica_answers_and_is_remembered_as_asleep(storage: LocalStorage) -> None:
    serve = Serve("m-1", "m-2")
    watch = TrafficWatch(storage, "m", serve)
    put(storage, canary="m-2", weight_percent=1)
    before_s = time.monotonic()
    watch.poll()
    assert not watch.was_asleep("m-2", before_s)
    serve.asleep = {"m-2"}
    watch.check()
    serve.asleep = set()  # it wakes; who waited for that is still told apart
    watch.check()
    assert watch.situation.answering == {"m-1", "m-2"}
    assert watch.was_asleep("m-2", before_s)
    assert not watch.was_asleep("m-1", before_s)
    assert not watch.was_asleep("m-2", time.monotonic() + 2 * LIVENESS_S)
