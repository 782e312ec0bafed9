"""The gateway's view: right from the first request, changed in one piece, kept through failed reads."""

from __future__ import annotations

from datetime import UTC, datetime

from cluster.storage import LocalStorage
from services.contract import Traffic, read_traffic, traffic_key, write_traffic
from services.serving.watch import LIVENESS_S, TrafficWatch


class Serve:
    def __init__(self, *revisions: str) -> None:
        self.revisions, self.num_asked = set(revisions), 0

    def __call__(self) -> frozenset[str]:
        self.num_asked += 1
        return frozenset(self.revisions)


def put(storage: LocalStorage, **fields: object) -> None:
    present = read_traffic(storage, "m")
    traffic = {"name": "m", "stable": "m-1", "changed_at": datetime.now(UTC), **fields}
    write_traffic(storage, Traffic.model_validate(traffic), expect=present[1] if present else "")


def test_nothing_deployed_is_version_0(storage: LocalStorage) -> None:
    watch = TrafficWatch(storage, "m", Serve())
    watch.poll(0.0)
    assert watch.situation.traffic is None
    assert watch.version == 0


def test_a_change_is_seen_with_the_next_poll(storage: LocalStorage) -> None:
    serve = Serve("m-1")
    watch = TrafficWatch(storage, "m", serve)
    put(storage)
    watch.poll(0.0)
    put(storage, canary="m-2", weight_percent=1, version=2)
    serve.revisions.add("m-2")
    watch.poll(0.25)
    assert watch.version == 2
    assert watch.situation.answering == {"m-1", "m-2"}


def test_serve_is_asked_once_a_second_when_nothing_changes(storage: LocalStorage) -> None:
    serve = Serve("m-1", "m-2")
    watch = TrafficWatch(storage, "m", serve)
    put(storage)
    watch.poll(0.0)
    serve.revisions.discard("m-2")
    watch.poll(LIVENESS_S / 2)
    assert serve.num_asked == 1
    watch.poll(LIVENESS_S)
    assert watch.situation.answering == {"m-1"}


def test_a_read_that_fails_keeps_the_last_traffic_and_the_next_good_one_replaces_it(storage: LocalStorage) -> None:
    watch = TrafficWatch(storage, "m", Serve("m-1"))
    put(storage)
    watch.poll(0.0)
    before = watch.situation
    storage.write(traffic_key("m"), b"half a docu")
    watch.poll(0.25)
    assert watch.situation is before
    storage.write(
        traffic_key("m"),
        Traffic(name="m", stable="m-3", changed_at=datetime.now(UTC), version=3).model_dump_json().encode(),
    )
    watch.poll(0.5)
    assert watch.version == 3
