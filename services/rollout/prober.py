"""The prober: a detached Ray actor that asks golden items and tells the controller what they scored. It decides nothing.

What is to be asked comes from the controller (`ProbeTask`), which counts the answers; so a prober that is killed goes on where the
evidence stands, and items whose answers were lost with a killed controller are asked again.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from cluster import registry
from cluster.storage import Storage, open_storage
from cluster.telemetry import configure, logger
from services.config import ProbesConfig
from services.contract import NAMESPACE
from services.contract import actor_name as controller_name
from services.rollout.answers import answer
from services.rollout.asking import NoAnswer, ServeAsker, has_replica
from services.rollout.llm_judge import Ask, asking, compare
from services.rollout.probes import ProbeAnswer, ProbeItem, ProbeTask, load, order, read_answers
from services.rollout.scoring import score

log = logger("probes")

IDLE_S = 2.0
"""Between two questions to the controller while nothing is to be asked."""
REFRESH_S = 5.0
"""So often the controller is asked what is to be done, while something is."""
NUM_TRIES = 3
"""An item that nobody answered is tried so often, the others in between; then it is left out of the round."""
AGAIN_S = 60.0
"""Then a rollout's items that were left out are tried again: a replica that was away may be back."""
CONTROLLER_TIMEOUT_S = 30.0

AskRevision = Callable[[str, ProbeItem, ProbesConfig], Awaitable[str]]


class Desk(Protocol):
    """Who gives tasks and takes answers: the controller."""

    async def task(self) -> ProbeTask | None: ...

    async def deliver(self, task: ProbeTask, answers: Sequence[ProbeAnswer]) -> None: ...

    async def finish(self, task: ProbeTask) -> None:
        """Every item of the task was asked, or is left out."""
        ...


class Probing:
    """One task after another, at its pace."""

    def __init__(
        self,
        storage: Storage,
        desk: Desk,
        ask: AskRevision,
        judge: Callable[[Any], Ask] = asking,
        runs: Callable[[str], bool] = has_replica,
    ) -> None:
        """`runs`: whether a revision has a replica at the moment; it may block."""
        self._storage, self._desk, self._ask, self._judge, self._runs = storage, desk, ask, judge, runs
        self._task: ProbeTask | None = None
        self._fetched_s = float("-inf")
        self._done: set[str] = set()
        """Told to the controller since the task was fetched."""
        self._tries: dict[str, int] = {}
        self._left_since_s: float | None = None
        """When a rollout's items were first found to be left out."""
        self._finished: tuple[str, str, int] | None = None
        self._items: tuple[str, tuple[ProbeItem, ...]] = ("", ())
        self._recorded: tuple[str, dict[str, ProbeAnswer]] = ("", {})

    async def turn(self, now_s: float) -> float:
        """Ask what is next; returns the seconds from its beginning to the next turn's. `now_s` is a monotonic clock's reading."""
        if now_s - self._fetched_s >= REFRESH_S:
            await self._fetch(now_s)
        task = self._task
        if task is None:
            return IDLE_S
        batch = self._next(task)
        if not batch:
            await self._finish(task, now_s)
            return IDLE_S
        if task.kind == "decay":
            self._before(task)  # a storage that is away is no item's fault: this turn fails as a whole
        found = await asyncio.gather(*(self._answer(task, item) for item in batch))
        if answers := [answer for answer in found if answer is not None]:
            await self._desk.deliver(task, answers)
            self._done |= {answer.item for answer in answers}
        return len(batch) * 60 / task.items_per_minute

    async def _fetch(self, now_s: float) -> None:
        task = await self._desk.task()
        if task is None or self._task is None or task.turn != self._task.turn:
            self._tries, self._left_since_s = {}, None
        self._task, self._fetched_s = task, now_s
        self._done = set(task.known) if task else set()

    def _next(self, task: ProbeTask) -> list[ProbeItem]:
        if self._items[0] != task.items:
            self._items = task.items, load(self._storage, task.items)
        shuffled = order(self._items[1], f"{task.id}/{task.kind}/{task.round}")
        waiting = [item for item in shuffled if item.id not in self._done and self._tried(item) < NUM_TRIES]
        return sorted(waiting, key=self._tried)[: task.probes.max_concurrent]  # stable: those that failed come last

    def _tried(self, item: ProbeItem) -> int:
        return self._tries.get(item.id, 0)

    async def _finish(self, task: ProbeTask, now_s: float) -> None:
        left = [item for item, tries in self._tries.items() if tries >= NUM_TRIES]
        if left and self._finished != task.turn:
            log.warning("%d item(s) had no answer in %d tries and are left out (%s)", len(left), NUM_TRIES, left[0])
        self._finished = task.turn
        await self._desk.finish(task)  # each time: a controller that was killed may not have kept it
        self._fetched_s = float("-inf")
        if task.kind != "rollout":  # a round in which nobody answered anything is asked again
            self._tries = {}
        elif left and self._left_since_s is None:
            self._left_since_s = now_s
        elif self._left_since_s is not None and now_s - self._left_since_s >= AGAIN_S:
            self._tries, self._left_since_s = {}, None

    # --- one item -----------------------------------------------------------------------------------------------------

    async def _answer(self, task: ProbeTask, item: ProbeItem) -> ProbeAnswer | None:
        """The item's scores; None when it is no evidence."""
        texts: list[str | None] = []
        try:
            texts += await asyncio.gather(*(self._text(task, revision, item) for revision in task.revisions))
            scores = await self._scores(task, item, *texts)
        except Exception as error:  # no verdict, no key, a defect of a scorer: one item must not keep the others
            log.warning("%s: %s: %s", item.id, type(error).__name__, error)
            scores = None
        if scores is None:
            self._tries[item.id] = self._tried(item) + 1
            return None
        text = texts[0] if task.kind == "record" and item.scorer == "judge" else None
        return ProbeAnswer(item=item.id, before=scores[0], now=scores[1], text=text, at=datetime.now(UTC))

    async def _text(self, task: ProbeTask, revision: str, item: ProbeItem) -> str | None:
        try:
            return await self._ask(revision, item, task.probes)
        except NoAnswer as error:
            log.info("%s got no answer from %s: %s", item.id, revision, error)
            return None

    async def _scores(self, task: ProbeTask, item: ProbeItem, *texts: str | None) -> tuple[float, float] | None:
        """(before, now), as ProbeAnswer has them."""
        if task.kind == "rollout":
            return await self._pair(task, item, texts[0], texts[1])
        (text,) = texts
        if (
            text is None
        ):  # a model that does not answer is for health checks and alarms: nothing is known of its answers
            return None
        if task.kind == "record":
            known = 0.5 if item.scorer == "judge" else score(item.scorer, text, _expected(item))
            return known, known
        before = self._before(task).get(item.id)
        if before is None:
            return None
        if item.scorer == "judge":
            return await self._judged(task, item, before.text or "", text)
        return before.now, score(item.scorer, text, _expected(item))

    async def _pair(
        self, task: ProbeTask, item: ProbeItem, stable: str | None, canary: str | None
    ) -> tuple[float, float] | None:
        """A canary that is there and gives no answer scores 0. Stable's silence is no evidence: that it is away, or too slow, makes
        no candidate better; nor is that of a canary without a replica, which is no worse for it."""
        if stable is None or (canary is None and not await asyncio.to_thread(self._runs, task.revisions[1])):
            return None
        if item.scorer != "judge":
            expected = _expected(item)
            return score(item.scorer, stable, expected), score(
                item.scorer, canary, expected
            ) if canary is not None else 0.0
        if canary is None:
            return 1.0, 0.0
        return await self._judged(task, item, stable, canary)

    async def _judged(self, task: ProbeTask, item: ProbeItem, before: str, now: str) -> tuple[float, float]:
        chosen = next(found.judge for found in task.probes.sets if found.name == item.set_name)
        assert chosen is not None, "checked when the rollout started"
        return await compare(self._judge(chosen), item.question, item.answers, before, now)

    def _before(self, task: ProbeTask) -> dict[str, ProbeAnswer]:
        """What was recorded after the promotion."""
        if self._recorded[0] != task.recorded:
            found = read_answers(self._storage, task.recorded)
            self._recorded = task.recorded, {answer.item: answer for answer in found}
        return self._recorded[1]


def _expected(item: ProbeItem) -> tuple[str, ...]:
    return (item.choices[item.gold],) if item.choices else item.answers


class _Controller:
    """The desk of the controller's actor, looked up anew each time: it may have been restarted."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def task(self) -> ProbeTask | None:
        found: ProbeTask | None = await self._call("probe_task")
        return found

    async def deliver(self, task: ProbeTask, answers: Sequence[ProbeAnswer]) -> None:
        await self._call("probed", task.turn, list(answers))

    async def finish(self, task: ProbeTask) -> None:
        await self._call("probes_finished", task.turn)

    async def _call(self, method: str, *arguments: Any) -> Any:
        import ray

        actor = ray.get_actor(controller_name(self._name), namespace=NAMESPACE)
        return await asyncio.wait_for(getattr(actor, method).remote(*arguments), CONTROLLER_TIMEOUT_S)


class Prober:
    """The actor. Ray starts it anew when its process dies."""

    def __init__(self, name: str, storage_uri: str) -> None:
        configure()
        storage = open_storage(storage_uri)

        def engine_of(revision: str) -> str:
            return registry.engine_of(storage, name, revision)

        self._probing = Probing(
            storage,
            _Controller(name),
            ServeAsker(engine_of),
            runs=lambda revision: has_replica(engine_of(revision)),
        )
        threading.Thread(target=lambda: asyncio.run(self._run()), name="probes", daemon=True).start()

    async def _run(self) -> None:
        failing = False
        while True:
            began_s = time.monotonic()
            try:
                pause_s, failing = await self._probing.turn(began_s), False
            except (
                Exception
            ) as error:  # this thread's outermost loop: the controller or storage may be away for a while
                if not failing:
                    log.warning("probes wait: %s: %s", type(error).__name__, str(error)[:300])
                pause_s, failing = 5.0, True
            await asyncio.sleep(max(0.0, began_s + pause_s - time.monotonic()))

    def check(self, probes: ProbesConfig) -> None:
        """Whether these probes can be asked from here.

        Raises:
            ConfigError: the API key of a judge is not set.
        """
        for found in probes.sets:
            if found.judge is not None:
                asking(found.judge)

    def pid(self) -> int:
        """For operators (and tests) who want to end exactly this process."""
        import os

        return os.getpid()


def prober_name(name: str) -> str:
    return f"serinus-probes-{name}"


def ensure_prober(name: str, storage_uri: str) -> Any:
    """The prober of `name` in the joined cluster, started where it is not there yet; returns the actor's handle.

    On the head node, where the controller is: it needs the API key of a judge, and two places to set that are one too many.
    """
    import ray

    from cluster.pools import on_pool

    options: dict[str, Any] = {"name": prober_name(name), "namespace": NAMESPACE, "lifetime": "detached"}
    options |= {"get_if_exists": True, "num_cpus": 0, "max_restarts": -1, "max_task_retries": 0}
    return ray.remote(Prober).options(**options, label_selector=on_pool("head")).remote(name, storage_uri)


def check_probes(name: str, storage_uri: str, config: ProbesConfig) -> None:
    """Start the prober, and let it look whether it has what these probes need: see `Prober.check`."""
    answer(name, ensure_prober(name, storage_uri).check.remote(config), "prober")
