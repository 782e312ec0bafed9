"""Items shared by engines side by side: whoever is free takes the next ones, and rows stand in the items' order whoever answers."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Condition, Event, Thread

from pipelines.evaluation.items import Item, Row
from pipelines.progress import Bar

FIRST_BATCH = 24
"""Items given to an engine at once, at first."""
BATCH_S = 30.0
"""What later ones should take: a GPU is filled and hardly ever waits for a batch's last item, and progress still shows."""
MOST_GROWTH = 8
"""Times, from one batch to the next: the items of another task may be slower."""
SHOW_EVERY_S = 2.0


class Over(Exception):
    """All is answered, or another engine has failed: what is waited for is of no use any more."""


class Sharing:
    """What is left and what is answered. Used by a thread for each engine.

    Attributes:
        over: set once all is answered, or one has failed.
        failure: what the first one raised that did.
        num_answering: engines that have started.
    """

    def __init__(self, items: Sequence[Item], num_engines: int) -> None:
        self.over, self.num_engines, self.num_answering = Event(), num_engines, 0
        self.failure: BaseException | None = None
        self._items, self._task = items, ""
        self._left = deque([range(len(items))])
        self._answered: dict[int, list[Row]] = {}
        """By the place of a batch's first item."""
        self._changed = Condition()  # its lock may be taken again by who has it
        if not items:
            self.over.set()

    @property
    def num_answered(self) -> int:
        with self._changed:
            return sum(map(len, self._answered.values()))

    @property
    def rows(self) -> list[Row]:
        """In the order of their items."""
        with self._changed:
            return [row for _, rows in sorted(self._answered.items()) for row in rows]

    @property
    def figures(self) -> str:
        """What is under way, for people."""
        several = self.num_engines > 1
        if not self.num_answering:
            return "starting the engines" if several else "starting the engine"
        return f"{self._task}, {self.num_answering} of {self.num_engines} engines" if several else self._task

    def check(self) -> None:
        """For who waits for something.

        Raises:
            Over: it is of no use any more.
        """
        if self.over.is_set():
            raise Over

    def end(self, failure: BaseException | None = None) -> None:
        """Let all engines end; the first to say why is heard."""
        with self._changed:
            if not self.over.is_set():
                self.failure = failure
                self.over.set()
            self._changed.notify_all()

    @contextmanager
    def engine(self) -> Iterator[int]:
        """While an engine answers; how many do so now."""
        with self._changed:
            self.num_answering += 1
            now = self.num_answering
        try:
            yield now
        finally:
            with self._changed:
                self.num_answering -= 1

    def answer(self, ask: Callable[[Sequence[Item]], list[Row]]) -> bool:
        """Batch after batch by one engine, until all is answered; one that breaks off leaves its batch to the others.

        Returns:
            Whether this engine answered the last one.
        """
        size = FIRST_BATCH
        while batch := self._take(size):
            began = time.monotonic()
            try:
                rows = ask(self._items[batch.start : batch.stop])
            except BaseException:
                self._give_back(batch)
                raise
            size = next_size(len(batch), time.monotonic() - began)
            if self._put(batch, rows):
                return True
        return False

    def _take(self, size: int) -> range:
        """None once it is over. Where others have all that is left it waits: they may lose it."""
        with self._changed:
            self._changed.wait_for(lambda: self._left or self.over.is_set())
            if self.over.is_set():
                return range(0)
            whole = self._left.popleft()
            size = fair_size(size, len(whole) + sum(map(len, self._left)), self.num_answering)
            if rest := whole[size:]:
                self._left.appendleft(rest)
            self._task = self._items[whole.start].task
            return whole[:size]

    def _give_back(self, batch: range) -> None:
        with self._changed:
            self._left.appendleft(batch)
            self._changed.notify_all()

    def _put(self, batch: range, rows: list[Row]) -> bool:
        assert len(rows) == len(batch)
        with self._changed:
            self._answered[batch.start] = rows
            if is_last := self.num_answered == len(self._items):
                self.end()
            return is_last


def side_by_side(sharing: Sharing, engine: Callable[[], None], shown: Bar) -> list[Row]:
    """All rows, by so many calls of `engine` at once as there are engines; each answers by `sharing.answer`.

    Raises:
        What the first of them raised that failed, with which all end.
    """
    threads = [Thread(target=_until_over, args=(sharing, engine), daemon=True) for _ in range(sharing.num_engines)]
    try:
        for thread in threads:
            thread.start()
        while not sharing.over.wait(SHOW_EVERY_S):
            shown.update(sharing.num_answered, sharing.figures)
    finally:  # also by Ctrl-C
        sharing.end()
        for thread in threads:
            thread.join()
    if sharing.failure is not None:
        raise sharing.failure
    shown.update(sharing.num_answered)
    return sharing.rows


def _until_over(sharing: Sharing, engine: Callable[[], None]) -> None:
    try:
        engine()
    except BaseException as error:  # raised again in the main thread, unless that is not waiting any more
        sharing.end(error)


def next_size(num_items: int, took_s: float) -> int:
    """Items of an engine's next batch, when its last one of `num_items` took `took_s`."""
    return max(1, min(int(num_items * BATCH_S / max(took_s, 1e-3)), MOST_GROWTH * num_items))


def fair_size(size: int, num_left: int, num_engines: int) -> int:
    """`size`, or less where others would have nothing left to do meanwhile; not so few that an engine is hardly filled."""
    return min(size, max(FIRST_BATCH, math.ceil(num_left / num_engines)))
