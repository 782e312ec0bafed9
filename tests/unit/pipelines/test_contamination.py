"""Contamination as a stage and in the gate: what is measured of a recipe, the three outcomes, where a run stops, what is told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import ValidationError

from cluster import artifacts
from cluster.artifacts import Checkpoint, Contamination, Dataset, EvalReport, GateReport, TaskContamination
from cluster.errors import GateFailed, InputError
from cluster.storage import LocalStorage
from pipelines import lifecycle
from pipelines.config import GateConfig, LifecycleConfig
from pipelines.contamination import measure
from pipelines.evaluation import report_page
from pipelines.evaluation.clean_items import measured_for
from pipelines.evaluation.compare import scores_of
from pipelines.evaluation.evaluate import _write_items, settings_of
from pipelines.evaluation.explain import lines
from pipelines.evaluation.gate import is_refused
from pipelines.evaluation.judged import last_gate
from pipelines.evaluation.overlap import judge_overlap
from pipelines.evaluation.report import of_gate
from pipelines.evaluation.verdict import gate, judge_before_training
from tests.unit.pipelines.data import world
from tests.unit.pipelines.data.test_contamination import OTHER, QUESTION

HALF = f"{' '.join(QUESTION.split()[:9])} and what became of it behind the door?"
ITEMS = [
    {"id": "leaked", "prompt": QUESTION, "choices": ["a canary", "a finch"], "answer": 0},
    {"id": "half", "prompt": HALF, "choices": ["a", "b"], "answer": 0},
    {"id": "clean", "prompt": OTHER, "choices": ["lamps", "ropes"], "answer": 1},
    {"id": "short", "prompt": "Which bird?", "choices": ["a canary", "a finch"], "answer": 0},
]  # fmt: skip


class Bench:
    """A dataset of a few documents, one of which holds an item, and the recipe that is asked."""

    def __init__(self, folder: Path) -> None:
        self.storage = LocalStorage(folder / "store")
        self.folder = folder
        docs = folder / "docs"
        docs.mkdir()
        texts = [*world.TEXTS[:6], f"From an old exam. {QUESTION} A canary.", *world.TEXTS[6:]]
        self.jsonl("docs/a.jsonl", [{"text": text} for text in texts])
        self.jsonl("exam.jsonl", ITEMS)
        self.data = world.config(docs, heldout_fraction=0)
        self.dataset = world.make(self.storage, self.data)

    def jsonl(self, name: str, rows: list[dict[str, Any]]) -> str:
        (self.folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(self.folder / name)

    def recipe(self, *tasks: Mapping[str, Any], **fields: Any) -> LifecycleConfig:
        exam = {"name": "exam", "kind": "multiple_choice", "path": str(self.folder / "exam.jsonl")}
        sections: dict[str, Any] = {
            "name": "m",
            "storage": str(self.folder / "store"),
            "data": self.data.model_dump(),
            "model": {"source": "model"},
            "evaluate": {"tasks": list(tasks) or [exam]},
            **fields,
        }
        return LifecycleConfig.model_validate(sections)

    def measure(self, recipe: LifecycleConfig | None = None) -> Contamination:
        return measure(recipe or self.recipe(), self.dataset, self.storage, world.Here())

    def rows(self, made: Contamination) -> dict[str, dict[str, Any]]:
        rows = pq.read_table(self.storage.root / made.location / "items.parquet").to_pylist()
        return {row["id"]: row for row in rows}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


# --- what is measured -------------------------------------------------------------------------------------------------


def test_each_item_with_its_shares_and_a_document(bench: Bench) -> None:
    made = bench.measure()
    rows = bench.rows(made)
    assert made.tasks == (
        TaskContamination(task="exam", num_items=4, num_measured=3, num_by_rule={"most_8_grams": 1, "any_13_gram": 1}),
    )
    leaked = rows["leaked"]
    assert [leaked[name] for name in ("prompt_8", "answer_8", "prompt_13", "answer_13")] == [1.0] * 4
    assert (leaked["most_8_grams"], leaked["document"]) == (True, "docs/a.jsonl#7")
    assert 0 < rows["half"]["prompt_8"] < 0.7
    assert rows["half"]["most_8_grams"] is False
    assert (rows["clean"]["prompt_8"], rows["clean"]["document"]) == (0.0, "")
    assert (rows["short"]["most_8_grams"], rows["short"]["any_13_gram"]) == (None, None)
    assert made.num_documents == bench.dataset.num_train == 13
    assert made.summary == "items that stand in the 13 documents to learn from: exam 1 of 4"
    assert artifacts.find(bench.storage, made.digest) == made == bench.measure()
    assert made.inputs == {"dataset": bench.dataset.digest}


def test_examples_before_a_prompt_are_none_of_its_words(bench: Bench) -> None:
    shots = bench.jsonl(
        "shots.jsonl", [{"prompt": f"{text} Which?", "choices": ["x", "y"], "answer": 0} for text in world.TEXTS]
    )
    exam = {"name": "exam", "kind": "multiple_choice", "path": str(bench.folder / "exam.jsonl"), "num_shots": 5}
    plain, shown = bench.measure(), bench.measure(bench.recipe({**exam, "shots_path": shots}))
    assert shown.key != plain.key
    assert bench.rows(shown) == bench.rows(plain)


def test_items_of_heldout_documents_and_what_is_never_measured(bench: Bench) -> None:
    texts = [topics[name] for name in sorted(topics)[:12]]
    bench.jsonl("docs/a.jsonl", [{"text": text} for text in texts])
    bench.data = world.config(bench.folder / "docs", heldout_fraction=0.4)
    bench.dataset = world.make(bench.storage, bench.data)
    canaries = bench.jsonl("canaries.jsonl", [{"prompt": QUESTION, "secret": "12345"}])
    tasks = (
        {"name": "text", "kind": "perplexity"},
        {"name": "gender", "kind": "weat", "test": "weat6"},
        {"name": "secrets", "kind": "canaries", "path": canaries},
    )
    made = bench.measure(bench.recipe(*tasks))
    assert [task.task for task in made.tasks] == ["text"]
    assert 0 < bench.dataset.num_heldout <= made.tasks[0].num_items


@pytest.mark.parametrize(
    ("method", "row"),
    [
        ("instruct", {"messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "A canary."}]}),
        ("dpo", {"prompt": "What of the mine?", "chosen": QUESTION, "rejected": "Nothing."}),
    ],
)  # fmt: skip
def test_methods_that_learn_from_a_file_are_held_against_it(bench: Bench, method: str, row: dict[str, Any]) -> None:
    """The dataset, which does hold an item here, is not what they learn from."""
    harmless = {
        "instruct": {"prompt": "Hello?", "answer": OTHER},
        "dpo": {"prompt": "a", "chosen": OTHER, "rejected": "b"},
    }
    path = bench.jsonl("learn.jsonl", [harmless[method]])
    learning = {"method": {"kind": method, "path": path}}
    clean = bench.measure(bench.recipe(train=learning))
    assert (clean.tasks[0].num_by_rule["most_8_grams"], clean.num_documents) == (1, 1)  # OTHER is an item
    bench.jsonl("learn.jsonl", [harmless[method], row])
    both = bench.measure(bench.recipe(train=learning))
    assert (both.tasks[0].num_by_rule["most_8_grams"], both.num_documents) == (2, 2)
    assert bench.rows(both)["leaked"]["document"] == "learn.jsonl:2"


def test_replayed_documents_are_learnt_from_as_well(bench: Bench) -> None:
    old = bench.dataset
    bench.jsonl("docs/a.jsonl", [{"text": text} for text in world.TEXTS])
    bench.dataset = world.make(bench.storage, bench.data)
    alone = bench.measure()
    both = bench.measure(bench.recipe(train={"replay": {"dataset": old.key, "fraction": 0.5}}))
    found = [(one.num_documents, one.tasks[0].num_by_rule["most_8_grams"]) for one in (alone, both)]
    assert found == [(12, 0), (25, 1)]
    assert both.inputs == {"dataset": bench.dataset.digest, "replayed": old.digest}


def test_a_file_or_a_dataset_that_is_not_there_is_one_message(bench: Bench) -> None:
    for train, found in (
        ({"method": {"kind": "instruct", "path": str(bench.folder / "none.jsonl")}}, "no such file"),
        ({"replay": {"dataset": "0" * 16, "fraction": 0.5}}, "there is no dataset 0000000000000000"),
    ):
        with pytest.raises(InputError, match=found):
            bench.measure(bench.recipe(train=train))


# --- what is asked ----------------------------------------------------------------------------------------------------


def figures(num_items: int, found: int, unknown: int) -> Contamination:
    task = TaskContamination(
        task="exam",
        num_items=num_items,
        num_measured=num_items - unknown,
        num_by_rule={"most_8_grams": found, "any_13_gram": 2 * found},
    )
    return Contamination(key="c" * 16, tasks=(task, task.replace(task="other")))


@pytest.mark.parametrize(
    ("found", "unknown", "outcome", "says"),
    [
        (0, 0, "passed", "0.0 % (0 of 100 items), at most 5 % is asked"),
        (5, 0, "passed", "5.0 % (5 of 100 items), at most 5 % is asked"),
        (6, 0, "failed", "6.0 % (6 of 100 items), at most 5 % is asked"),
        (6, 90, "failed", "6.0 % (6 of 100 items) and perhaps 90 too short to be looked for, at most 5 % is asked"),
        (2, 3, "passed", "2.0 % (2 of 100 items) and perhaps 3 too short to be looked for, at most 5 % is asked"),
        (2, 4, "inconclusive", "2.0 % (2 of 100 items) and perhaps 4 too short to be looked for, at most 5 % is asked"),
    ],
)
def test_the_three_outcomes(found: int, unknown: int, outcome: str, says: str) -> None:
    config = GateConfig.model_validate({"contamination": [{"tasks": ["exam"], "max_percent": 5}]})
    (check,) = judge_overlap(config, figures(100, found, unknown))
    assert (check.outcome, check.message) == (outcome, f"contamination of exam: {says}")
    assert is_refused(config, [check]) == (outcome != "passed")
    lets = config.replace(inconclusive_must="publish")
    assert is_refused(lets, [check]) == (outcome == "failed")


def test_all_tasks_by_the_rule_that_is_asked() -> None:
    config = GateConfig.model_validate(
        {"contamination": [{"max_percent": 5}, {"max_percent": 5, "rule": "any_13_gram"}]}
    )
    checks = judge_overlap(config, figures(100, 3, 0))
    assert [(one.task, one.num_contaminated, one.outcome) for one in checks] == [
        ("exam", 3, "passed"),
        ("other", 3, "passed"),
        ("exam", 6, "failed"),
        ("other", 6, "failed"),
    ]


@pytest.mark.parametrize(
    ("priority", "refused", "warned", "missed"), [("must", True, 0, 1), ("should", False, 1, 0), ("could", False, 0, 0)]
)
def test_a_must_blocks_a_should_warns_a_could_is_on_record(
    priority: str, refused: bool, warned: int, missed: int
) -> None:
    config = GateConfig.model_validate({"contamination": [{"tasks": ["exam"], "max_percent": 1, "priority": priority}]})
    checks = judge_overlap(config, figures(100, 3, 0))
    assert is_refused(config, checks) == refused
    report = GateReport(key="0" * 16, overlaps=checks)
    assert (len(report.warnings), len(report.missed), checks[0].outcome) == (warned, missed, "failed")


@pytest.mark.parametrize(
    ("limit", "evaluate", "says"),
    [
        ({"max_percent": 101}, {}, "less than or equal to 100"),
        ({"max_percent": -1}, {}, "greater than or equal to 0"),
        ({}, {}, "max_percent"),
        ({"max_percent": 5, "tasks": []}, {}, "at least 1 item"),
        ({"max_percent": 5, "tasks": ["exams"]}, {}, "no task is named exams (there are exam)"),
        ({"max_percent": 5, "rule": "any_8_gram"}, {}, "most_8_grams"),
        ({"max_percent": 5, "priority": "want"}, {}, "'must', 'should' or 'could'"),
        ({"max_percent": 5, "share": 5}, {}, "share"),
        ({"max_percent": 5}, {"contamination": False}, "evaluate.contamination is false"),
    ],
)
def test_a_limit_that_cannot_be_asked_is_told_before_anything_runs(
    bench: Bench, limit: dict[str, Any], evaluate: dict[str, Any], says: str
) -> None:
    asked = bench.recipe().evaluate.model_dump(mode="json") | evaluate
    with pytest.raises(ValidationError) as caught:
        bench.recipe(evaluate=asked, gate={"contamination": [limit]})
    assert says in str(caught.value)


def test_a_task_that_is_not_measured_cannot_be_asked(bench: Bench) -> None:
    gender = {"name": "gender", "kind": "weat", "test": "weat6"}
    exam = bench.recipe().evaluate.tasks[0].model_dump(mode="json")
    bench.recipe(exam, gender, gate={"contamination": [{"max_percent": 5}]})  # asked of all that are measured
    with pytest.raises(ValidationError, match="tasks of kind weat are not measured"):
        bench.recipe(exam, gender, gate={"contamination": [{"max_percent": 5, "tasks": ["gender"]}]})


# --- in the gate, the report and the lifecycle ------------------------------------------------------------------------

REQUIREMENT = {"compare": "quantized vs base", "tasks": "scores", "margin_percent": 50, "effect_percent": 60}


def evaluated(bench: Bench, role: str, right: set[str]) -> EvalReport:
    """A model that answers these items rightly."""
    rows = [
        {"task": "exam", "id": item["id"], "score": float(item["id"] in right), "correct": item["id"] in right,
         "nll": 1.0, "num_tokens": 1, "num_bytes": 4, "output": ""}
        for item in sorted(ITEMS, key=lambda item: str(item["id"]))
    ]  # fmt: skip
    made = EvalReport(
        key=role.ljust(16, "0"),
        inputs={"dataset": bench.dataset.digest},
        config=settings_of(bench.recipe().evaluate),
        scores=scores_of("exam", "multiple_choice", rows),
    )
    return artifacts.save(bench.storage, made.replace(files=(_write_items(bench.storage, made, rows),)))


def judged(bench: Bench, **config: Any) -> GateReport:
    asked = GateConfig.model_validate({"requirements": [REQUIREMENT], **config})
    base, trained = evaluated(bench, "base", {"clean"}), evaluated(bench, "trained", {"clean", "leaked", "half"})
    return gate(asked, base, trained, trained, bench.storage, measured=bench.measure())


def test_the_verdict_has_it_and_the_scores_without_the_contaminated_items(bench: Bench) -> None:
    verdict = judged(bench, contamination=[{"max_percent": 60, "priority": "should"}, {"max_percent": 10}])
    assert [one.outcome for one in verdict.overlaps] == ["passed", "failed"]
    assert (verdict.outcome, verdict.passed) == ("failed", False)
    assert verdict.inputs["contamination"] == bench.measure().digest
    (clean,) = verdict.clean_differences["trained vs base"]
    assert (clean.num_items, clean.old, clean.new) == (3, pytest.approx(1 / 3), pytest.approx(2 / 3))
    (everything,) = verdict.differences["trained vs base"]
    assert (everything.num_items, everything.new) == (4, 0.75)
    words = "\n".join(lines(verdict))
    assert "MUST   contamination of exam: FAILED (limit, 8 words)" in words
    assert "25.0 % (1 of 4 items) and perhaps 1 too short to be looked for, at most 10 % is asked" in words
    assert "70 % of the runs of 8 words of the prompt or of the answer stands in training documents" in words
    assert "accuracy on the 3 others: base 0.3333, trained 0.6667: +0.33 (0 to +1.00)" in words
    assert f"{bench.measure().location}/items.parquet" in words
    assert artifacts.load(bench.storage, GateReport, verdict.key) == verdict


def test_a_gate_that_does_not_ask_is_what_it_was(bench: Bench) -> None:
    verdict = judged(bench)
    assert "contamination" not in verdict.inputs
    assert "contamination" not in verdict.config
    said = json.loads(verdict.model_dump_json())
    assert not {"before", "overlaps", "clean_differences"} & said.keys()


@pytest.mark.parametrize("asked", [(), ({"max_percent": 60},)])
def test_the_report_tells_it_whether_or_not_the_gate_asks(bench: Bench, asked: tuple[dict[str, Any], ...]) -> None:
    report = of_gate(bench.storage, "m", judged(bench, contamination=list(asked)), ())
    assert report.contamination is not None
    trained = next(one for one in report.contamination.scores if one.model == "trained")
    assert (trained.all.value, trained.clean.num_items) == (0.75, 3)
    assert trained.clean.value == pytest.approx(2 / 3)
    page = report_page.page(report)
    assert "<h2>Contamination</h2>" in page
    assert "Without the contaminated items" in page
    assert page.count("trained vs base, without them") == 1
    assert ("contamination of exam" in page) == bool(asked)
    assert f"{bench.measure().location}/items.parquet" in {one.path for one in report.evidence}
    (bench.storage.root / bench.measure().location / "items.parquet").write_bytes(b"other")
    with pytest.raises(InputError, match="is not the file on record"):
        of_gate(bench.storage, "m", judged(bench), ())


def test_the_report_takes_what_was_looked_for_in_what_that_model_learnt_from(bench: Bench) -> None:
    old = bench.dataset
    bench.jsonl("docs/a.jsonl", [{"text": text} for text in world.TEXTS])
    bench.dataset = world.make(bench.storage, bench.data)
    by_dataset = bench.measure()
    with_replay = bench.measure(bench.recipe(train={"replay": {"dataset": old.key, "fraction": 0.5}}))
    file = bench.jsonl("learn.jsonl", [{"prompt": "Which bird?", "response": "A canary."}])
    newest = bench.measure(bench.recipe(train={"method": {"kind": "instruct", "path": file}}))
    report = evaluated(bench, "trained", {"clean"})
    causal = {"inputs": {"dataset": bench.dataset.digest}, "config": {"method": {"kind": "causal"}}}
    replayed = {"inputs": {"dataset": bench.dataset.digest, "replayed": old.digest}}
    assert measured_for(bench.storage, report) == newest
    assert measured_for(bench.storage, report, Checkpoint(key="k", **causal)) == by_dataset
    assert measured_for(bench.storage, report, Checkpoint(key="k", **replayed)) == with_replay
    told = Checkpoint(key="k", **{**causal, "config": {"method": {"kind": "instruct"}}})
    assert measured_for(bench.storage, report, told) == newest


def prepared(bench: Bench, monkeypatch: pytest.MonkeyPatch, max_percent: float) -> LifecycleConfig:
    """The lifecycle up to the training, which is told of and not run."""

    def trained(*given: object) -> Dataset:
        raise AssertionError("trained")

    monkeypatch.setattr(lifecycle, "clean", lambda *given: bench.dataset)
    monkeypatch.setattr(lifecycle, "import_model", trained)
    monkeypatch.setattr(lifecycle, "measure", lambda *given: measure(*given, world.Here()))
    return bench.recipe(gate={"requirements": [REQUIREMENT], "contamination": [{"max_percent": max_percent}]})


def test_a_must_that_is_missed_stops_before_the_training(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = prepared(bench, monkeypatch, 10)
    for until, again in (("publish", None), ("quantize", None), ("gate", "gate"), ("publish", None)):
        with pytest.raises(GateFailed, match=r"contamination of exam: 25\.0 % \(1 of 4 items\)"):
            lifecycle.run(asked, bench.storage, until=until, remake_from=again)  # type: ignore[arg-type]
    verdict = last_gate(bench.storage, "m")
    assert (verdict.before, verdict.outcome, verdict.passed, verdict.checks) == ("train", "failed", False, ())
    assert verdict.summary == "failed before the stage train: 0 of 1 musts passed"
    assert "Told before the stage train" in "\n".join(lines(verdict))
    page = report_page.page(of_gate(bench.storage, "m", verdict, ()))
    assert "contamination of exam" in page
    assert judge_before_training(asked.gate, bench.measure(), bench.storage) == verdict


@pytest.mark.parametrize("until", ["evaluate", "publish"])
def test_it_goes_on_where_that_may_pass_or_no_gate_is_asked(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, until: Any
) -> None:
    asked = prepared(bench, monkeypatch, 10 if until == "evaluate" else 50)
    with pytest.raises(AssertionError, match="trained"):
        lifecycle.run(asked, bench.storage, until=until)
    assert artifacts.load(bench.storage, Contamination, bench.measure().key) is not None


def test_in_a_recipe_as_a_user_writes_it() -> None:
    text = "contamination: [{tasks: [gsm8k], max_percent: 1}, {max_percent: 5, priority: should, rule: any_13_gram}]"
    config = GateConfig.model_validate(yaml.safe_load(text))
    assert [(one.tasks, one.priority) for one in config.contamination] == [(("gsm8k",), "must"), ("all", "should")]
