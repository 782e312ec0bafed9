"""Engines side by side: who takes which items, and what becomes of the items of one that breaks off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from threading import Barrier, Condition, Event, Lock, Thread

import pytest

from cluster.errors import InputError
from pipelines.evaluation import sharing as module
from pipelines.evaluation.items import Item, Row
from pipelines.evaluation.sharing import FIRST_BATCH, Over, Sharing, fair_size, side_by_side
from pipelines.progress import Bar

ITEMS = [Item("text", "perplexity", str(number), "", ("words",)) for number in range(10 * FIRST_BATCH)]
IDS = [item.id for item in ITEMS]
WITHIN_S = 10.0


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHOW_EVERY_S", 0.01)


class Shown(Bar):
    """What a person was shown last."""

    def __init__(self) -> None:
        self.told: list[tuple[int, str]] = []

    def update(self, completed: int, figures: str = "") -> None:
        self.told.append((completed, figures))


def rows_of(items: Sequence[Item], by: int = 0) -> list[Row]:
    return [{"id": item.id, "by": by} for item in items]


class Noticed(Condition):
    """Tells that somebody waits."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.set()
        return super().wait(timeout)


class Engines:
    """So many that answer; what the first batches of each meet is told by the test."""

    def __init__(self, num: int, meets: Callable[[int, Sequence[Item]], None] = lambda number, items: None) -> None:
        self.sharing, self.shown, self.meets = Sharing(ITEMS, num), Shown(), meets
        self.lock, self.num_begun = Lock(), 0
        self.is_last: list[bool] = []

    def one(self) -> None:
        with self.lock:
            self.num_begun += 1
            number = self.num_begun

        def ask(items: Sequence[Item]) -> list[Row]:
            self.meets(number, items)
            return rows_of(items, number)

        with self.sharing.engine():
            self.is_last.append(self.sharing.answer(ask))

    def run(self) -> list[Row]:
        return side_by_side(self.sharing, self.one, self.shown)


@pytest.mark.parametrize("num", [1, 2, 5])
def test_rows_stand_in_the_order_of_items_whoever_answers(num: int) -> None:
    together = Barrier(num)
    met: set[int] = set()

    def meets(number: int, items: Sequence[Item]) -> None:
        if number not in met:  # all have a batch before any goes on
            met.add(number)
            together.wait(WITHIN_S)

    engines = Engines(num, meets)
    rows = engines.run()
    assert [row["id"] for row in rows] == IDS
    assert {row["by"] for row in rows} == set(range(1, num + 1))
    assert Counter(engines.is_last) == Counter({True: 1, False: num - 1}), "one is left to measure the speed of"
    assert engines.shown.told[-1] == (len(ITEMS), "")


def test_one_that_has_not_started_takes_nothing_and_is_not_waited_for() -> None:
    engines = Engines(2)
    first, gave_up = Lock(), Event()

    def one() -> None:
        if first.acquire(blocking=False):
            engines.one()
            return
        try:
            while not engines.sharing.over.wait(0.01):
                engines.sharing.check()
            engines.sharing.check()
        except Over:
            gave_up.set()
            raise

    rows = side_by_side(engines.sharing, one, engines.shown)
    assert {row["by"] for row in rows} == {1}
    assert gave_up.is_set()


def test_what_one_breaks_off_at_is_answered_by_another_that_had_nothing_left() -> None:
    sharing, answered = Sharing(ITEMS[:2], 2), list[bool]()
    sharing._changed = changed = Noticed()

    def ends() -> None:
        with sharing.engine():
            answered.append(sharing.answer(rows_of))

    other = Thread(target=ends)

    def lost(items: Sequence[Item]) -> list[Row]:
        other.start()
        assert changed.waits.wait(WITHIN_S)
        raise ConnectionError

    with sharing.engine(), pytest.raises(ConnectionError):
        sharing.answer(lost)
    other.join(WITHIN_S)
    assert answered == [True]
    assert [row["id"] for row in sharing.rows] == IDS[:2]


def test_the_first_to_fail_ends_all_with_what_it_says() -> None:
    refused = InputError("model", "vLLM cannot load it", "mend the model folder")
    together, heard = Barrier(2), Event()

    def meets(number: int, items: Sequence[Item]) -> None:
        together.wait(WITHIN_S)
        if number == 1:
            raise refused
        assert engines.sharing.over.wait(WITHIN_S)
        heard.set()
        engines.sharing.check()  # as who waits for an answer does

    engines = Engines(2, meets)
    with pytest.raises(InputError) as found:
        engines.run()
    assert found.value is refused
    assert heard.is_set()
    assert engines.sharing.num_answering == 0


def test_ctrl_c_lets_all_end() -> None:
    ended = Event()

    def one() -> None:
        engines.sharing.over.wait(WITHIN_S)
        ended.set()

    class Interrupted(Shown):
        def update(self, completed: int, figures: str = "") -> None:
            raise KeyboardInterrupt

    engines = Engines(1)
    with pytest.raises(KeyboardInterrupt):
        side_by_side(engines.sharing, one, Interrupted())
    assert ended.is_set()
    assert engines.sharing.failure is None


def test_without_items_no_engine_is_waited_for() -> None:
    sharing = Sharing([], 1)
    assert side_by_side(sharing, sharing.check, Shown()) == []


@pytest.mark.parametrize(
    ("size", "num_left", "num_engines", "expected"),
    [
        (192, 1000, 1, 192),  # one takes what it can
        (192, 200, 2, 100),  # two share what is left
        (192, 40, 2, FIRST_BATCH),  # and not in crumbs
        (3, 1000, 2, 3),  # a slow one keeps to its own size
    ],
)
def test_no_engine_takes_what_others_would_wait_for(size: int, num_left: int, num_engines: int, expected: int) -> None:
    assert fair_size(size, num_left, num_engines) == expected


def test_people_see_how_many_answer() -> None:
    sharing = Sharing(ITEMS, 3)
    assert sharing.figures == "starting the engines"
    with sharing.engine() as first, sharing.engine() as second:
        sharing._take(1)
        assert (first, second, sharing.figures) == (1, 2, "text, 2 of 3 engines")
