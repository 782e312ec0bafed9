"""The audit record: in order, by several writers, and what was changed or taken out shows."""

from __future__ import annotations

import itertools
import threading
from datetime import UTC, datetime

import pytest

from cluster.storage import LocalStorage
from services import audit
from services.audit import Line

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def line(number: int) -> Line:
    return Line(id=f"m/{number}", kind="deployed", name="m", who="ann", at=NOW, message=f"number {number}")


def written(storage: LocalStorage, number: int) -> None:
    for place in range(number):
        audit.append(storage, line(place))


def test_entries_come_back_in_order_and_follow_each_other(storage: LocalStorage) -> None:
    written(storage, 12)
    found = list(audit.entries(storage, "m"))
    assert [stored.entry.number for stored in found] == list(range(1, 13))
    assert [stored.entry.line.message for stored in found][-1] == "number 11"
    assert found[0].entry.previous == ""
    assert all(after.entry.previous == before.sha256 for before, after in itertools.pairwise(found))
    assert audit.broken(storage, "m") == ()
    assert [stored.entry.number for stored in audit.entries(storage, "m", after=9)] == [10, 11, 12]


@pytest.mark.parametrize("after", [0, 1, 3, 7])
def test_the_end_is_found_from_wherever_one_knew_it(storage: LocalStorage, after: int) -> None:
    written(storage, 5)
    last = audit.end(storage, "m", after)
    assert last is not None
    assert last.entry.number == 5
    assert audit.append(storage, line(5), after=after).entry.number == 6


def test_an_empty_record_is_whole(storage: LocalStorage) -> None:
    assert audit.end(storage, "m") is None
    assert audit.broken(storage, "m") == ()


def test_many_writers_lose_nothing(storage: LocalStorage) -> None:
    writers = [threading.Thread(target=written, args=(storage, 10)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = list(audit.entries(storage, "m"))
    assert [stored.entry.number for stored in found] == list(range(1, 41))
    assert audit.broken(storage, "m") == ()


@pytest.mark.parametrize(
    ("number", "problem"),
    [(1, "missing: 1"), (3, "missing: 3")],
)
def test_an_entry_taken_out_shows(storage: LocalStorage, number: int, problem: str) -> None:
    written(storage, 5)
    (storage.root / f"audit/m/{number:08d}.json").unlink()
    assert audit.broken(storage, "m") == (problem,)


@pytest.mark.parametrize("number", [1, 3])
def test_an_entry_changed_shows(storage: LocalStorage, number: int) -> None:
    written(storage, 5)
    path = storage.root / f"audit/m/{number:08d}.json"
    path.write_text(path.read_text().replace('"ann"', '"bob"'))
    (problem,) = audit.broken(storage, "m")
    assert problem.startswith(f"{number + 1} does not follow")


def test_what_is_no_entry_any_more_shows_and_others_can_still_be_read(storage: LocalStorage) -> None:
    written(storage, 3)
    (storage.root / "audit/m/00000002.json").write_text("{}")
    assert "not an entry any more: 2" in audit.broken(storage, "m")
    assert [stored.entry.number for stored in audit.entries(storage, "m")] == [1, 3]


@pytest.mark.parametrize("after", [0, 3, 5])
def test_the_record_goes_on_behind_an_entry_that_another_version_wrote(storage: LocalStorage, after: int) -> None:
    written(storage, 5)
    path = storage.root / "audit/m/00000005.json"
    path.write_text(path.read_text().replace('"deployed"', '"unheard_of"'))
    assert audit.read(storage, "m", 5) is None
    assert audit.append(storage, line(6), after=after).entry.number == 6
    assert [stored.entry.number for stored in audit.entries(storage, "m")] == [1, 2, 3, 4, 6]


def test_a_note_carries_what_is_known(storage: LocalStorage) -> None:
    stored = audit.note(storage, "m", "deployed", "gateway", who="ann", at=NOW, stable="m-1", before=None)
    assert stored.entry.line.details == {"stable": "m-1"}
    assert stored.entry.line.id == "m/deployed/20260101-000000-000000"
