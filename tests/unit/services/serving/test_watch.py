"""The gateway's view: right from the first request, changed in one piece, kept through failed reads."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from cluster.storage import LocalStorage
from services.contract import Traffic, read_traffic, traffic_key, write_traffic
from services.serving.watch import TrafficWatch


class Serve:
    """Tells which revisions answer, as of when it was asked."""

    def __init__(self, *revisions: str) -> None:
        self.revisions, self.down = set(revisions), False
        self.meanwhile: Callable[[], None] | None = None

    def __call__(self) -> frozenset[str]:
        if self.down:
            raise ConnectionError("no controller")
        told = frozenset(self.revisions)
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


def test_a_revision_that_stops_answering_is_noticed_by_the_next_check(storage: LocalStorage) -> None:
    serve = Serve("m-1", "m-2")
    watch = TrafficWatch(storage, "m", serve)
    put(storage, canary="m-2", weight_percent=1)
    watch.poll()
    serve.revisions.discard("m-2")
    watch.check()
    assert watch.situation.answering == {"m-1"}
    assert watch.version == 1


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
