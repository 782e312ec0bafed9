"""What is asked of engines stands in storage and survives whoever asked."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from cluster.errors import InputError, UserError
from cluster.storage import LocalStorage
from services import engines
from services.engines import (
    Engines,
    Order,
    change_order,
    check_follows,
    claim_stop,
    engines_key,
    read_engines,
    reserve,
    take,
)


def with_adapter(order: Order) -> Order:
    return order.replace(adapters={**order.adapters, "m-2": "artifacts/adapter/2/adapter"})


def test_an_order_is_kept_until_nothing_is_asked_any_more(storage: LocalStorage) -> None:
    assert read_engines(storage, "m") == Engines(name="m")
    change_order(storage, "m", "m-1", with_adapter)
    assert read_engines(storage, "m").hosts == {"m-2": "m-1"}
    change_order(storage, "m", "m-1", lambda order: order.replace(adapters={}))
    assert read_engines(storage, "m").orders == {}


def test_a_change_that_lost_a_race_is_made_again_on_what_is_there(storage: LocalStorage) -> None:
    def slow(order: Order) -> Order:
        if not order.adapters:  # someone else is quicker, once
            change_order(storage, "m", "m-1", with_adapter)
        return order.replace(adapters={**order.adapters, "m-3": "folder"})

    change_order(storage, "m", "m-1", slow)
    assert set(read_engines(storage, "m").hosts) == {"m-2", "m-3"}


def test_a_change_to_what_is_there_writes_nothing(storage: LocalStorage) -> None:
    change_order(storage, "m", "m-1", with_adapter)
    before = storage.read(engines_key("m"))
    change_order(storage, "m", "m-1", with_adapter)
    assert storage.read(engines_key("m")) == before


def test_a_damaged_document_is_named(storage: LocalStorage) -> None:
    storage.write(engines_key("m"), b'{"orders": 1}')
    with pytest.raises(InputError, match=r"engines\.json"):
        read_engines(storage, "m")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Exception | None]:
    """Engines that run, and what each answers an order with."""
    answers: dict[str, Exception | None] = {}

    def tell(engine: str) -> tuple[()]:
        if (error := answers[engine]) is not None:
            raise error
        return ()

    monkeypatch.setattr(engines, "tell", tell)
    monkeypatch.setattr(engines, "num_running", lambda engine: int(engine in answers))
    return answers


def test_an_engine_of_an_older_version_is_to_be_deployed_again(asked: dict[str, Exception | None]) -> None:
    told = "Tried to call a method 'follow_order' that does not exist. Available methods: ['chat', 'settings']."
    asked["m-1"] = RuntimeError(f"ray::ServeReplica failed\n{told}")
    with pytest.raises(UserError, match=r"(?s)m-1.*older version.*serinus deploy"):
        check_follows("m-1")


@pytest.mark.parametrize("answer", [None, TimeoutError("busy")])
def test_an_engine_that_answers_or_is_only_busy_is_let_be(
    asked: dict[str, Exception | None], answer: Exception | None
) -> None:
    asked["m-1"] = answer
    check_follows("m-1")
    check_follows("m-2")  # does not run


RESTED = datetime(2026, 1, 1, tzinfo=UTC)


def test_an_engine_at_rest_goes_to_whoever_asks_first(storage: LocalStorage) -> None:
    change_order(storage, "m", "m-1", lambda order: order.replace(resting_since=RESTED))
    assert not claim_stop(storage, "m", "m-1", RESTED - timedelta(seconds=1))  # not for long enough
    assert reserve(storage, "m", "m-1", 2)
    assert not claim_stop(storage, "m", "m-1", RESTED)
    assert read_engines(storage, "m").order("m-1") == Order(floor=2)
    change_order(storage, "m", "m-1", lambda order: order.replace(resting_since=RESTED))
    assert claim_stop(storage, "m", "m-1", RESTED)
    assert not reserve(storage, "m", "m-1", 2)


def test_an_engine_that_is_to_be_loaded_is_stopped_to_the_end_if_that_was_begun(storage: LocalStorage) -> None:
    removed: list[str] = []
    assert not take(storage, "m", "m-1", removed.append)  # it did not rest
    change_order(storage, "m", "m-1", lambda order: order.replace(resting_since=RESTED))
    assert take(storage, "m", "m-1", removed.append)
    assert removed == []
    change_order(storage, "m", "m-1", lambda order: order.replace(resting_since=RESTED, floor=1))
    assert claim_stop(storage, "m", "m-1", RESTED)
    assert not take(storage, "m", "m-1", removed.append)
    assert (removed, read_engines(storage, "m").order("m-1")) == (["m-1"], Order(floor=1))


def test_orders_are_written_without_what_older_engines_do_not_know(storage: LocalStorage) -> None:
    change_order(storage, "m", "m-1", lambda order: order.replace(floor=1))
    blob = storage.read(engines_key("m"))
    assert blob is not None
    assert json.loads(blob.content) == {"name": "m", "orders": {"m-1": {"floor": 1}}}
