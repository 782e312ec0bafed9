"""Two evaluations of the same items: what differs is listed with its gap, what was not asked the same is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.errors import InputError
from pipelines.config import EvaluateConfig
from pipelines.evaluation import report_page, standalone
from pipelines.evaluation.agreement import agreement, read
from pipelines.evaluation.items import Item
from pipelines.evaluation.report import Evidence
from pipelines.evaluation.scoring import answer
from pipelines.task_config import AnyTask
from serinus import app
from tests.unit.pipelines.evaluation.safety.world import FakeEngine, task_of

CHOICES = [{"id": str(n), "prompt": f"{n} + 1 =", "choices": [str(n + 1), "five"], "answer": 0} for n in range(3)]
QUESTIONS = [{"id": "q", "prompt": "When?", "answers": ["1066"]}, {"id": "r", "prompt": "Who?", "answers": ["me"]}]
TEXTS = [{"id": "t", "text": "To be or not to be"}]


def tasks(folder: Path) -> tuple[AnyTask, ...]:
    folder.mkdir(exist_ok=True)
    kinds = {"multiple_choice": CHOICES, "qa": QUESTIONS, "perplexity": TEXTS}
    return tuple(task_of(folder, kind, lines).replace(name=kind) for kind, lines in kinds.items())


def evaluated(out: Path, engine: FakeEngine, of: tuple[AnyTask, ...]) -> Path:
    """A folder as `serinus eval` writes it."""
    config = EvaluateConfig(tasks=of)
    items = standalone.items_of(config, "tasks.yaml")
    source = Evidence(role="model", kind="folder", path="m", digest="d", summary="an engine")
    report = standalone.reported(config, "finch", source, items, answer(engine, items), out=out)
    report_page.write(report, out)
    return out


def engine(nudge: float = 0.0, says: Callable[[Item], list[str]] = lambda item: ["1066"]) -> FakeEngine:
    """Two bytes a nat for short answers, all but alike; `nudge` is what another engine's rounding does to the last of them."""
    return FakeEngine(says, lambda item, a: -len(a.encode()) / 2 + (nudge if a == " five" and item.id == "2" else 0.0))


def test_a_choice_by_a_hair_is_listed_with_its_gap(tmp_path: Path) -> None:
    of = tasks(tmp_path / "tasks")
    first = evaluated(tmp_path / "a", engine(-0.01), of)
    second = evaluated(tmp_path / "b", engine(+0.02, lambda item: ["1066" if item.id == "q" else "you"]), of)
    found = agreement(read(first), read(second))
    choice, written, text = found.tasks
    assert (choice.num_items, choice.first, choice.second) == (3, 1, pytest.approx(2 / 3))
    (one,) = choice.different
    assert (one.id, one.first, one.second) == ("2", " 3", " five")
    assert (one.first_gap, one.second_gap) == (pytest.approx(0.01 / 5), pytest.approx(0.02 / 5))
    assert choice.largest_distance == pytest.approx(0.03 / 5)
    assert choice.mean_distance == pytest.approx(0.03 / 5 / 6)
    assert (written.num_other_texts, written.different, written.largest_distance) == (1, (), None), "both are wrong"
    assert (text.largest_distance, text.different) == (0, ())
    assert found.first == "finch (an engine)"


def test_another_score_of_what_was_written(tmp_path: Path) -> None:
    of = tasks(tmp_path / "tasks")[1:2]
    first = evaluated(tmp_path / "a", engine(), of)
    second = evaluated(tmp_path / "b", engine(says=lambda item: ["me"]), of)
    assert {one.id for one in agreement(read(first), read(second)).tasks[0].different} == {"q", "r"}


def test_as_a_user_types_it(tmp_path: Path) -> None:
    of = tasks(tmp_path / "tasks")
    first, same = (evaluated(tmp_path / name, engine(), of) for name in "ab")
    other = evaluated(tmp_path / "c", engine(0.5), of)
    told = CliRunner().invoke(app, ["eval-compare", str(first), str(same), "--out", str(tmp_path / "found.json")])
    assert told.exit_code == 0
    assert json.loads((tmp_path / "found.json").read_text())["tasks"][0]["task"] == "multiple_choice"
    assert CliRunner().invoke(app, ["eval-compare", str(first), str(other)]).exit_code == 1


def test_what_was_not_asked_the_same_is_refused(tmp_path: Path) -> None:
    of = tasks(tmp_path / "tasks")
    first = evaluated(tmp_path / "a", engine(), of)
    fewer = evaluated(tmp_path / "b", engine(), of[:2])
    with pytest.raises(InputError, match=r"1 item\(s\) are in one of them alone \(first perplexity/t\)"):
        agreement(read(first), read(fewer))
    assert [one.task for one in agreement(read(first), read(fewer), ["qa"]).tasks] == ["qa"]
    with pytest.raises(InputError, match="has no task 'perplexity'"):
        agreement(read(first), read(fewer), ["perplexity"])
    changed = task_of(tmp_path, "qa", [{**QUESTIONS[0], "prompt": "Where?"}, QUESTIONS[1]]).replace(name="qa")
    second = evaluated(tmp_path / "c", engine(), (of[0], changed, of[2]))
    with pytest.raises(InputError, match=r"1 item\(s\) have another prompt \(first qa/q\)"):
        agreement(read(first), read(second))


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no items\.parquet"):
        read(tmp_path)
    of = tasks(tmp_path / "tasks")
    first, second = evaluated(tmp_path / "a", engine(), of), evaluated(tmp_path / "b", engine(0.5), of)
    (first / "items.parquet").write_bytes((second / "items.parquet").read_bytes())
    with pytest.raises(InputError, match=r"holds no report on its items\.parquet"):
        read(first)
