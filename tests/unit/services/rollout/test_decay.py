"""The watch over a promoted model: what a round establishes, and the way back, killed between any two writes."""

from __future__ import annotations

import logging
import math
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cluster import registry
from cluster.artifacts import Revision
from cluster.storage import LocalStorage
from services import audit
from services.config import DecayConfig, ProbesConfig, ProbeSetConfig, RolloutConfig
from services.contract import Traffic, read_traffic, write_traffic
from services.rollout.decay import DecayFinding, items_needed, judge_round, level
from services.rollout.decay_status import WatchStatus, judged_again, read_watch
from services.rollout.decay_watch import FLUSH_S, DecayWatch
from services.rollout.probes import ProbeAnswer, read_answers
from services.rollout.status import Decision, RolloutStatus, make_current, write_status
from services.rollout.summary import lines, summary
from tests.unit.services.rollout.world import FakeApplications, Killed, MortalStorage

NOW = datetime(2026, 1, 1, tzinfo=UTC)
OLD, NEW = "m-00000001", "m-00000002"
CONFIG = DecayConfig()


def answers(num: int, num_lost: int, num_won: int = 0, seed: int = 0) -> list[ProbeAnswer]:
    """`num` items, of which so many went from right to wrong (and from wrong to right), in a random order."""
    changes = [(1.0, 0.0)] * num_lost + [(0.0, 1.0)] * num_won + [(1.0, 1.0)] * (num - num_lost - num_won)
    random.Random(seed).shuffle(changes)
    return [ProbeAnswer(item=f"set/{n:05d}", before=b, now=a, at=NOW) for n, (b, a) in enumerate(changes)]


def judged(*changes: int, number: int = 1) -> DecayFinding:
    return judge_round(CONFIG, number, answers(*changes))


def test_the_levels_of_all_rounds_together_are_alpha() -> None:
    assert sum(level(CONFIG, number) for number in range(1, 10**5)) == pytest.approx(CONFIG.alpha, rel=1e-4)


def test_a_large_drop_is_established_on_a_few_items_and_a_small_one_is_not() -> None:
    assert judged(300, 90).verdict == "failed"
    assert judged(3000, 30).verdict == "passed"
    small = judged(200, 10)
    assert (small.verdict, round(small.drop, 3)) == ("inconclusive", 0.05)


def test_a_drop_that_is_not_established_comes_with_the_number_of_items_that_would() -> None:
    found = judged(200, 12)
    assert found.needed is not None
    assert found.needed > 200
    assert f"about {found.needed} would" in found.told(CONFIG)
    many = found.needed, round(0.06 * found.needed)
    verdicts = [judge_round(CONFIG, 1, answers(*many, seed=seed)).verdict for seed in range(20)]
    assert verdicts.count("failed") >= 6  # about half, as is said
    assert judged(200, 6).needed is None  # 3 points are the margin
    assert items_needed(0.02, 0.03, 0.1, 0.01) is None


def test_a_point_less_is_told_as_not_established_with_what_would_exclude_more() -> None:
    found = judged(100, 1)
    assert (found.verdict, found.needed) == ("inconclusive", None)
    assert found.lacking is not None
    more = f"about {found.lacking} more items would exclude one of 5"
    assert f"1.0 points down, no drop beyond 3 points is established; {more}" in found.told(CONFIG)
    many = answers(100, 1) + answers(3 * found.lacking, round(0.03 * found.lacking), seed=1)
    assert judge_round(CONFIG, 1, many[: 100 + found.lacking // 3]).verdict == "inconclusive"
    assert judge_round(CONFIG, 1, many).verdict == "passed"
    assert judged(200, 11).lacking is None


def test_the_same_items_again_are_no_new_evidence() -> None:
    rounds = [judged(200, 12, number=number) for number in (1, 2, 10, 100)]
    assert [found.verdict for found in rounds] == ["inconclusive"] * 4
    assert rounds[0].log_harm == rounds[3].log_harm
    assert [found.log_threshold for found in rounds] == sorted(found.log_threshold for found in rounds)


def test_what_was_established_stays_so_within_the_round() -> None:
    found = judge_round(CONFIG, 1, answers(60, 60) + answers(4000, 0)[60:])
    assert (found.verdict, found.num_items) == ("failed", 4000)
    assert math.isfinite(found.log_harm)


# --- the watch ------------------------------------------------------------------------------------------------------------


class Scene:
    """A rollout was just promoted; a prober that asks ten items a turn; time moves a minute a turn."""

    def __init__(self, root: Path, num_items: int = 200, **decay: object) -> None:
        self.now, self.root, self.num_items = NOW, root, num_items
        self.storage = LocalStorage(root)
        self.applications = FakeApplications(self.storage)
        for number in (1, 2):
            names = {"name": "m", "revision": f"m-{number:08x}", "weights": "w"}
            registry.publish_revision(self.storage, Revision(key=f"{number:016x}", **names))
        registry.move_aliases(self.storage, "m", {"stable": NEW, "previous": OLD})
        write_traffic(self.storage, Traffic(name="m", stable=NEW, changed_at=NOW))
        probes = ProbesConfig.model_validate(
            {"sets": (ProbeSetConfig(name="set", path="x"),), "decay": {"round_every_h": 0, **decay}}
        )
        self.rollout("r1", probes)
        self.watch = self.process(self.storage)
        self.share_lost = 0.0
        self.num_asked = 0

    def rollout(self, rollout_id: str, probes: ProbesConfig, phase: str = "promoted") -> None:
        decision = Decision(action="promote", verdict="passed", reason="x", message="x", at=NOW)
        found = RolloutStatus.model_validate(
            {"id": rollout_id, "name": "m", "candidate": NEW, "stable": OLD, "config": RolloutConfig(probes=probes),
             "phase": phase, "probe_items": "items", "weight_percent": 0, "started_at": NOW, "step_started_at": NOW,
             "decisions": (decision,)}
        )  # fmt: skip
        pointer = self.storage.read("rollouts/m/current")
        write_status(self.storage, found)
        make_current(self.storage, found, expect=pointer.version if pointer else "")

    def process(self, storage: LocalStorage) -> DecayWatch:
        return DecayWatch(storage, "m", self.applications, lambda: self.now)

    @property
    def status(self) -> WatchStatus:
        found = read_watch(self.storage, "m")
        assert found is not None
        return found[0]

    @property
    def stable(self) -> str:
        found = read_traffic(self.storage, "m")
        assert found is not None
        return found[0].stable

    def turn(self) -> None:
        self.now += timedelta(minutes=1)
        while self.watch.tick() == 0.0:
            pass
        if (task := self.watch.task()) is None:
            return
        waiting = [f"set/{n:05d}" for n in range(self.num_items) if f"set/{n:05d}" not in task.known]
        self.num_asked += len(waiting[:10])
        self.watch.take(task.turn, [self._answer(item, task.kind) for item in waiting[:10]])
        if not waiting[10:]:
            self.watch.finish(task.turn)
        while self.watch.tick() == 0.0:
            pass

    def _answer(self, item: str, kind: str) -> ProbeAnswer:
        lost = kind == "decay" and random.Random(item).random() < self.share_lost
        return ProbeAnswer(item=item, before=1.0, now=float(not lost), at=self.now)

    def run(self, turns: int) -> None:
        for _ in range(turns):
            self.turn()


def test_scores_are_recorded_at_the_promotion_and_every_item_is_asked_once_a_round(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.run(10)
    assert scene.status.phase == "recording"
    scene.run(15)
    assert (scene.status.phase, scene.status.recorded, scene.status.num_recorded) == ("watching", 1.0, 200)
    scene.run(40)
    assert scene.status.round >= 3
    assert scene.stable == NEW
    names = [key.rsplit("/", 1)[1] for key in scene.storage.list("rollouts/m/r1") if key.endswith(".jsonl")]
    assert names[:3] == ["recorded.jsonl", "round-0001.jsonl", "round-0002.jsonl"]
    assert all(len(read_answers(scene.storage, f"rollouts/m/r1/{name}")) == 200 for name in names[:3])
    whole = judge_round(CONFIG, 1, read_answers(scene.storage, "rollouts/m/r1/round-0001.jsonl"))
    assert (whole.verdict, "a drop of 5 points is excluded" in whole.told(CONFIG)) == ("passed", True)


def test_a_clock_that_is_set_back_does_not_put_the_next_round_off(tmp_path: Path) -> None:
    scene = Scene(tmp_path, round_every_h=2)
    scene.run(45)
    assert (scene.status.round, scene.watch.task()) == (2, None)
    scene.now -= timedelta(days=1)
    scene.run(25)
    assert scene.status.round == 3
    asked = scene.num_asked
    scene.run(90)
    assert scene.num_asked == asked, "and the one after that comes in its time"


def test_a_decayed_model_is_replaced_by_the_one_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene(tmp_path)
    scene.run(25)
    scene.share_lost = 0.3
    with caplog.at_level(logging.ERROR, "serinus"):
        scene.run(45)
    status = scene.status
    assert (status.phase, scene.stable, status.target) == ("reverted", OLD, OLD)
    assert registry.aliases(scene.storage, "m") == {"stable": OLD, "previous": NEW}
    move = registry.alias_history(scene.storage, "m")[-1]
    assert (move.who, "has decayed" in move.why) == ("analysis", True)
    assert status.decision is not None
    assert (status.decision.action, status.decision.reason, status.decision.who) == ("rollback", "decay", "analysis")
    assert "DECAY of m" in caplog.text
    assert judged_again(scene.storage, status) == status.last  # what it rested on is on record
    scene.run(3)
    assert scene.watch.task() is None


def test_a_drop_of_a_point_is_left_alone(tmp_path: Path) -> None:
    scene = Scene(tmp_path, num_items=400)
    scene.run(45)
    scene.share_lost = 0.01
    scene.run(200)
    assert (scene.status.phase, scene.stable) == ("watching", NEW)


def test_a_drop_beyond_the_margin_that_few_items_cannot_establish_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(tmp_path, num_items=50)
    scene.run(8)
    scene.share_lost = 0.12
    with caplog.at_level(logging.WARNING, "serinus"):
        scene.run(30)
    assert (scene.status.phase, scene.stable) == ("watching", NEW)
    assert "items do not establish" in caplog.text
    scene.storage.write("items", b"")
    found = RolloutStatus.model_validate_json(scene.storage.read("rollouts/m/r1/status.json").content)  # type: ignore[union-attr]
    assert any("would" in line for line in lines(summary(scene.storage, found)))


@pytest.mark.parametrize(
    ("loaded", "decay", "remedy"),
    [
        ({NEW}, {}, f"serinus canary start --revision {OLD}"),
        ({NEW, OLD}, {"rollback": False}, "serinus canary rollback"),
    ],
)
def test_where_there_is_no_way_back_it_says_loudly_what_to_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, loaded: set[str], decay: dict[str, object], remedy: str
) -> None:
    scene = Scene(tmp_path, **decay)
    scene.applications.loaded = loaded
    scene.run(25)
    scene.share_lost = 0.5
    with caplog.at_level(logging.ERROR, "serinus"):
        scene.run(30)
    assert (scene.status.phase, scene.stable) == ("alarmed", NEW)
    assert remedy in caplog.text
    assert scene.status.decision is not None
    assert (scene.status.decision.action, scene.status.decision.verdict) == ("hold", "failed")
    told = [stored.entry.line for stored in audit.entries(scene.storage, "m")]
    assert [(line.kind, line.who) for line in told] == [("decayed", "analysis")]
    assert remedy in told[0].message


def test_an_engine_that_was_stopped_since_going_back_was_decided_is_told_of(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.run(25)
    scene.share_lost = 0.5
    running = scene.applications.running
    looks = iter([{NEW, OLD}])  # when it decides; after that the old one is gone
    scene.applications.running = lambda: next(looks, running() - {OLD})  # type: ignore[method-assign]
    scene.run(30)
    assert (scene.status.phase, scene.stable, scene.status.target) == ("alarmed", NEW, None)
    (told,) = [stored.entry.line for stored in audit.entries(scene.storage, "m")]
    assert f"not done: revision {OLD} was stable before, but is no longer loaded" in told.message


def test_the_watch_rests_during_a_rollout_and_ends_with_its_model(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.run(25)
    scene.rollout("r2", scene.status.probes, phase="progressing")
    assert scene.watch.task() is None
    scene.rollout("r3", scene.status.probes, phase="rolled_back")
    scene.turn()
    assert scene.watch.task() is not None
    found = read_traffic(scene.storage, "m")
    assert found is not None
    write_traffic(scene.storage, found[0].replace(stable=OLD, version=2), expect=found[1])
    scene.turn()
    assert (scene.status.phase, scene.watch.task()) == ("ended", None)


def test_answers_to_an_earlier_round_do_not_count(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.run(3)
    task = scene.watch.task()
    assert task is not None
    scene.watch.take(("decay", "r1", 1), [ProbeAnswer(item="set/00150", before=1, now=0, at=NOW)])
    again = scene.watch.task()
    assert again is not None
    assert again.known == task.known


def test_killed_it_asks_again_only_what_was_not_written(tmp_path: Path) -> None:
    scene = Scene(tmp_path, num_items=400)
    for turn in range(60):  # a recording of 40 turns, and half a round
        scene.turn()
        if turn in (10, 20, 50):
            scene.watch = scene.process(scene.storage)
    assert scene.status.phase == "watching"
    per_turn_s = 60
    assert scene.num_asked <= 600 + 3 * 10 * (FLUSH_S / per_turn_s + 1)


@pytest.mark.parametrize("before", [True, False], ids=["before a write", "after a write"])
def test_killed_at_any_write_it_goes_back_once(tmp_path: Path, before: bool) -> None:
    def story(life: int) -> tuple[object, int]:
        scene = Scene(tmp_path / str(life), num_items=60)
        scene.run(8)
        scene.share_lost = 0.8
        mortal = MortalStorage(scene.storage.root, life, before)
        scene.watch = scene.process(mortal)
        for _ in range(20):
            try:
                scene.turn()
            except Killed:
                scene.watch = scene.process(scene.storage)
        moves = [(m.alias, m.new) for m in registry.alias_history(scene.storage, "m")]
        found = read_traffic(scene.storage, "m")
        assert found is not None
        return (scene.status.phase, found[0].stable, found[0].version, moves), mortal.num_writes

    expected, num_writes = story(10**6)
    assert num_writes >= 5
    for life in range(1, num_writes + 1):
        assert story(life)[0] == expected, f"killed at write {life}"
