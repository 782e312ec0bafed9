"""Golden items from a user's file to the controller: checked, shuffled, asked once, and asked again when they were lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cluster.errors import ConfigError, InputError
from cluster.storage import LocalStorage
from services.config import DecayConfig, JudgeConfig, ProbesConfig, ProbeSetConfig
from services.rollout.asking import NoAnswer
from services.rollout.prober import AGAIN_S, NUM_TRIES, REFRESH_S, Probing
from services.rollout.probes import ProbeAnswer, ProbeItem, ProbeTask, load, order, publish, read_set, write_answers

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def write(path: Path, *records: object) -> ProbeSetConfig:
    path.write_text("".join(r + "\n" if isinstance(r, str) else json.dumps(r) + "\n" for r in records))
    return ProbeSetConfig(name="set", path=str(path))


def test_items_of_every_kind_are_read_and_come_back_from_storage(tmp_path: Path, storage: LocalStorage) -> None:
    chosen = write(
        tmp_path / "items.jsonl",
        {"id": "a", "prompt": "1 + 1 =", "answer": "2"},
        "",
        {"messages": [{"role": "user", "content": "Capital of France?\u2028"}], "answer": ["Paris", "paris"]},
        {"id": "c", "prompt": "The cat", "choices": ["sat", " ran"], "answer": 1, "scorer": "choice"},
        {"id": "r", "prompt": "x", "answer": r"\d", "scorer": "regex"},
    ).replace(scorer="contains")
    items = read_set(chosen)
    assert [(item.id, item.scorer) for item in items] == [
        ("set/a", "contains"), ("set/3", "contains"), ("set/c", "choice"), ("set/r", "regex")
    ]  # fmt: skip
    assert items[2].choices == (" sat", " ran")
    key = publish(storage, "m", ProbesConfig(sets=(chosen,)))
    assert load(storage, key) == tuple(items)
    assert publish(storage, "m", ProbesConfig()) == ""


@pytest.mark.parametrize(
    ("record", "line", "problem"),
    [
        ("{", 1, "not JSON"),
        ("[1]", 1, "not a JSON object"),
        ({"prompt": "x"}, 1, "`answer` is neither"),
        ({"prompt": "x", "answer": []}, 1, "`answer` is neither"),
        ({"prompt": "x", "answer": 3}, 1, "`answer` is neither"),
        ({"answer": "x"}, 1, "needs either"),
        ({"prompt": " ", "answer": "x"}, 1, "`prompt` is not a text"),
        ({"messages": ["x"], "answer": "x"}, 1, "`messages` is not a list"),
        ({"prompt": "x", "answer": "x", "scorer": "luck"}, 1, "no scorer 'luck'"),
        ({"prompt": "x", "answer": "(", "scorer": "regex"}, 1, "no pattern of RE2"),
        ({"prompt": "x", "answer": "y", "scorer": "judge"}, 1, "scored by a judge"),
        ({"prompt": "x", "answer": 2, "choices": ["a", "b"], "scorer": "choice"}, 1, "`answer` is 2"),
        ({"prompt": "x", "answer": "y", "answers": "z"}, 1, "unknown key `answers`"),
        ('{"id": 7, "prompt": "x", "answer": "y"}\n{"id": 7, "prompt": "x", "answer": "y"}', 2, "given twice"),
    ],
)
def test_a_wrong_item_is_told_with_its_line(tmp_path: Path, record: object, line: int, problem: str) -> None:
    chosen = write(tmp_path / "items.jsonl", record)
    with pytest.raises(InputError, match=problem) as told:
        read_set(chosen)
    assert told.value.where == f"{tmp_path / 'items.jsonl'}:{line}"


def test_a_missing_and_an_empty_file_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_set(ProbeSetConfig(name="set", path=str(tmp_path / "none.jsonl")))
    with pytest.raises(InputError, match="holds no items"):
        read_set(write(tmp_path / "items.jsonl"))


def test_a_set_without_its_judge_and_two_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="names none"):
        ProbesConfig(sets=(ProbeSetConfig(name="a", path="x", scorer="judge"),))
    with pytest.raises(ValueError, match="same name"):
        ProbesConfig(sets=(ProbeSetConfig(name="a", path="x"), ProbeSetConfig(name="a", path="y")))
    with pytest.raises(ValueError, match="beyond"):
        DecayConfig(effect_points=3)


def made(number: int, **fields: object) -> list[ProbeItem]:
    base = {"scorer": "exact", "prompt": "p", "answers": ("yes",)}
    return [ProbeItem.model_validate({"id": f"set/{n:03d}", **base, **fields}) for n in range(number)]


def test_the_order_is_shuffled_the_same_each_time_and_another_for_another_rollout() -> None:
    items = made(100)
    first = order(items, "r1")
    assert first == order(list(reversed(items)), "r1")
    assert sorted(first, key=lambda item: item.id) == items
    assert first not in (items, order(items, "r2"))


# --- the prober ---------------------------------------------------------------------------------------------------------


class Desk:
    """A controller that counts."""

    def __init__(self, task: ProbeTask) -> None:
        self.first = task
        self.answers: dict[str, ProbeAnswer] = {}
        self.num_finished = 0

    async def task(self) -> ProbeTask | None:
        return self.first.replace(known=frozenset(self.answers))

    async def deliver(self, task: ProbeTask, answers: Sequence[ProbeAnswer]) -> None:
        assert task.turn == self.first.turn
        assert not {answer.item for answer in answers} & set(self.answers), "asked twice"
        self.answers |= {answer.item: answer for answer in answers}

    async def finish(self, task: ProbeTask) -> None:
        self.num_finished += 1


class Models:
    """`says` maps a revision to its answer, or to a failure."""

    def __init__(self, **says: str | None) -> None:
        self.says, self.asked = says, list[tuple[str, str]]()
        self.under_way = self.most = 0

    async def __call__(self, revision: str, item: ProbeItem, probes: ProbesConfig) -> str:
        self.asked.append((revision, item.id))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        text = self.says[revision]
        if text is None:
            raise NoAnswer("away")
        return text


class Scene:
    def __init__(self, storage: LocalStorage, items: list[ProbeItem], kind: str = "rollout", **probes: object) -> None:
        self.storage = storage
        storage.write("items", "".join(item.model_dump_json() + "\n" for item in items).encode())
        config = ProbesConfig.model_validate({"sets": ({"name": "set", "path": "x", **_judge(items)},), **probes})
        revisions = ("stable", "canary") if kind == "rollout" else ("stable",)
        fields = {"kind": kind, "id": "r", "round": 0, "revisions": revisions, "items": "items", "probes": config}
        self.desk = Desk(ProbeTask.model_validate({**fields, "recorded": "recorded"}))
        self.now_s = 0.0
        self.running = set(revisions)

    def run(self, models: Models, turns: int, judge: object = None) -> Probing:
        judges = {"judge": judge} if judge else {}
        probing = Probing(self.storage, self.desk, models, runs=self.running.__contains__, **judges)  # type: ignore[arg-type]
        for _ in range(turns):
            self.now_s += asyncio.run(probing.turn(self.now_s))
        return probing


def _judge(items: list[ProbeItem]) -> dict[str, object]:
    judged = items[0].scorer == "judge"
    return {"judge": JudgeConfig(url="http://x", model="m").model_dump()} if judged else {}


def test_every_item_is_asked_once_of_both_at_the_pace_told(storage: LocalStorage) -> None:
    scene, models = Scene(storage, made(20), items_per_minute=120, max_concurrent=2), Models(stable="yes", canary="no")
    scene.run(models, 10)
    assert len(scene.desk.answers) == 20
    assert {(a.before, a.now) for a in scene.desk.answers.values()} == {(1.0, 0.0)}
    assert sorted(models.asked) == sorted((r, f"set/{n:03d}") for n in range(20) for r in ("stable", "canary"))
    assert (models.most, scene.now_s) == (4, 10.0)  # two items at once, of two revisions each; 20 in ten seconds
    scene.run(models, 1)
    assert scene.desk.num_finished == 1


def test_a_killed_prober_goes_on_where_it_was_and_what_was_lost_is_asked_again(storage: LocalStorage) -> None:
    scene, models = Scene(storage, made(10)), Models(stable="yes", canary="yes")
    scene.run(models, 4)
    probing = scene.run(models, 3)  # another process
    assert (len(scene.desk.answers), len(models.asked)) == (7, 14)
    lost = list(scene.desk.answers)[-2:]
    for item in lost:  # the controller was killed before it wrote them
        del scene.desk.answers[item]
    scene.now_s += REFRESH_S
    for _ in range(5):
        scene.now_s += asyncio.run(probing.turn(scene.now_s))
    assert len(scene.desk.answers) == 10
    assert len(models.asked) == 24


@pytest.mark.parametrize(
    ("stable", "canary", "running", "scores"),
    [
        ("yes", None, {"stable", "canary"}, [(1.0, 0.0)]),
        ("yes", None, {"stable"}, []),
        (None, "yes", {"canary"}, []),
        (None, "yes", {"stable", "canary"}, []),
        (None, "no", {"stable", "canary"}, []),
    ],
)
@pytest.mark.parametrize("scorer", ["exact", "judge"])
def test_only_a_canary_that_is_there_scores_0_for_no_answer(
    storage: LocalStorage,
    stable: str | None,
    canary: str | None,
    running: set[str],
    scores: list[tuple[float, float]],
    scorer: str,
) -> None:
    scene = Scene(storage, made(1, scorer=scorer))
    scene.running = running
    scene.run(Models(stable=stable, canary=canary), 1)
    assert [(a.before, a.now) for a in scene.desk.answers.values()] == scores


def test_what_was_no_evidence_is_asked_again_when_the_replica_may_be_back(storage: LocalStorage) -> None:
    scene, models = Scene(storage, made(3)), Models(stable=None, canary="yes")
    probing = scene.run(models, 3 * NUM_TRIES + 1)
    assert scene.desk.num_finished == 1
    models.says["stable"] = "yes"
    scene.now_s += AGAIN_S
    for _ in range(5):
        scene.now_s += asyncio.run(probing.turn(scene.now_s))
    assert {(a.before, a.now) for a in scene.desk.answers.values()} == {(1.0, 1.0)}
    assert len(scene.desk.answers) == 3


def test_no_answer_from_both_is_no_evidence_and_is_tried_a_few_times(storage: LocalStorage) -> None:
    scene, models = Scene(storage, made(2)), Models(stable=None, canary=None)
    scene.run(models, 20)
    assert scene.desk.answers == {}
    assert len(models.asked) == 2 * 2 * NUM_TRIES
    assert [item for _, item in models.asked][::2][:2] == sorted({item for _, item in models.asked}, key=[
        item.id for item in order(made(2), "r/rollout/0")].index)  # fmt: skip  # the other one comes between two tries
    assert scene.desk.num_finished > 0


def test_recording_and_watching_ask_the_one_revision(storage: LocalStorage) -> None:
    recording = Scene(storage, made(3), "record")
    recording.run(Models(stable="yes"), 3)
    assert {(a.before, a.now, a.text) for a in recording.desk.answers.values()} == {(1.0, 1.0, None)}
    write_answers(storage, "recorded", recording.desk.answers.values())
    watching = Scene(storage, made(4), "decay", decay={"items_per_minute": 600})
    watching.run(Models(stable="no"), 6)
    assert {(a.before, a.now) for a in watching.desk.answers.values()} == {(1.0, 0.0)}
    assert len(watching.desk.answers) == 3  # the fourth was not recorded: there is nothing to compare it with


def test_a_model_that_does_not_answer_has_not_decayed(storage: LocalStorage) -> None:
    write_answers(storage, "recorded", [ProbeAnswer(item="set/000", before=1, now=1, at=NOW)])
    scene = Scene(storage, made(1), "decay")
    scene.run(Models(stable=None), 5)
    assert scene.desk.answers == {}


def test_a_judge_compares_with_the_other_revision_and_later_with_what_was_recorded(storage: LocalStorage) -> None:
    def judge(_: object) -> object:
        async def ask(prompt: str) -> str:
            return "[[A]]" if prompt.index("fine") < prompt.index("[Answer B]") else "[[B]]"

        return ask

    items = made(1, scorer="judge", answers=())
    rollout = Scene(storage, items)
    rollout.run(Models(stable="fine", canary="poor"), 1, judge)
    assert [(a.before, a.now) for a in rollout.desk.answers.values()] == [(1.0, 0.0)]
    recording = Scene(storage, items, "record")
    recording.run(Models(stable="fine"), 1, judge)
    write_answers(storage, "recorded", recording.desk.answers.values())
    watching = Scene(storage, items, "decay")
    watching.run(Models(stable="poor"), 1, judge)
    assert [(a.before, a.now) for a in watching.desk.answers.values()] == [(1.0, 0.0)]


def test_an_item_that_fails_otherwise_keeps_no_other_from_being_asked(storage: LocalStorage) -> None:
    def judge(_: object) -> object:
        raise ConfigError("judge.key_env", "is not set", "set it")

    judged = made(1, scorer="judge", answers=())
    others = [item.replace(id=f"set/other-{n}") for n, item in enumerate(made(3))]
    scene, models = Scene(storage, [*judged, *others]), Models(stable="yes", canary="no")
    scene.run(models, 12, judge)
    assert set(scene.desk.answers) == {item.id for item in others}
    assert len(models.asked) == 2 * (3 + NUM_TRIES)
    assert scene.desk.num_finished > 0
