"""Registers: those that ship are whole, nothing passes without a digest, and no check means no claim."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.artifacts import Dataset, EvalReport, GateReport, Manifest, Score, Source
from cluster.config import load_yaml
from cluster.errors import ConfigError, InputError
from cluster.storage import sha256_of
from pipelines.evaluation.evidence import BIAS, REFUSAL, TOXICITY
from pipelines.evaluation.figures import FIGURES
from pipelines.evaluation.register import FOLDER, Register, TaskCheck, judge, shipped


def register(check: dict[str, object]) -> Register:
    return Register.model_validate(
        {"name": "r", "source": "s", "indicators": [{"id": "1", "source": "", "text": "", "check": check}]}
    )


def status(check: dict[str, object], **made: Manifest) -> tuple[str, str]:
    (row,) = judge(register(check), made)
    return row.status, row.digest


@pytest.mark.parametrize(
    ("name", "num"), [("nist_ai_600_1", 219), ("owasp_llm_2025", 15), ("eu_ai_act", 16), ("template_127", 127)]
)
def test_each_that_ships(name: str, num: int) -> None:
    assert len(load_yaml(FOLDER / f"{name}.yaml", Register).indicators) == num
    assert len(list(FOLDER.glob("*.yaml"))) == 4


def test_all_of_nist_s_actions_are_there_and_no_part_stands_for_one() -> None:
    register = load_yaml(FOLDER / "nist_ai_600_1.yaml", Register)
    actions = [one for one in register.indicators if "/" not in one.id]
    parts = [one for one in register.indicators if "/" in one.id]
    assert len(actions) == 212
    assert {one.check.kind for one in actions} == {"manual"}
    assert {one.id.split("/")[0] for one in parts} <= {one.id for one in actions}
    assert all(one.check.kind != "manual" and f"part of {one.id.split('/')[0]}" in one.source for one in parts)


def test_checks_of_tasks_name_metrics_that_there_are() -> None:
    metrics = {figure.metric for figures in FIGURES.values() for figure in figures}
    checks = [one.check for register in shipped() for one in register.indicators if isinstance(one.check, TaskCheck)]
    assert checks
    assert {check.metric for check in checks} <= metrics
    assert metrics >= BIAS | TOXICITY | REFUSAL


@pytest.mark.parametrize(
    ("shows", "metric"),
    [
        ("bias_measured", "bias_ambiguous"),
        ("toxicity_measured", "expected_maximum_toxicity"),
        ("refusal_measured", "refusal_rate"),
    ],
)
def test_what_was_measured_is_said_with_its_figures(shows: str, metric: str) -> None:
    score = Score(task="t", metric=metric, value=0.7, ci_low=0.6, ci_high=0.8, num_items=80)
    report, other = (
        EvalReport(key="q", scores=(score,)),
        EvalReport(key="q", scores=(score.replace(metric="accuracy"),)),
    )
    assert status({"kind": "artifact", "shows": shows}, trained_report=report) == ("passed", report.digest)
    assert status({"kind": "artifact", "shows": shows}, trained_report=other) == ("no_evidence", "")
    assert status({"kind": "artifact", "shows": "accuracy_recorded"}, trained_report=other) == ("passed", other.digest)


def test_toxicity_is_no_accuracy() -> None:
    score = Score(task="t", metric="expected_maximum_toxicity", value=0.7, ci_low=0.6, ci_high=0.8, num_items=80)
    check = {"kind": "artifact", "shows": "accuracy_recorded"}
    assert status(check, trained_report=EvalReport(key="q", scores=(score,))) == ("no_evidence", "")


@pytest.mark.parametrize(("metric", "wanted"), [("exposure_bits", "no_evidence"), ("permutation_p", "passed")])
def test_one_item_shows_no_interval(metric: str, wanted: str) -> None:
    score = Score(task="t", metric=metric, value=0.5, ci_low=0.5, ci_high=0.5, num_items=1)
    check = {"kind": "task", "task": "t", "metric": metric, "at_most": 4}
    assert status(check, trained_report=EvalReport(key="q", scores=(score,)))[0] == wanted


def test_what_a_dataset_says_of_its_cleaning() -> None:
    plain = Dataset(key="d", config={"dedup": {"exact": False}, "decontaminate": None})
    clean = Dataset(key="d", config={"dedup": {"exact": True}, "decontaminate": {"sets": [{}]}})
    for shows in ("duplicates_excluded", "evaluation_items_excluded"):
        assert status({"kind": "artifact", "shows": shows}, dataset=plain) == ("no_evidence", "")
        assert status({"kind": "artifact", "shows": shows}, dataset=clean) == ("passed", clean.digest)


def test_without_artifacts_nothing_is_claimed() -> None:
    rows = [row for one in shipped() for row in judge(one, {})]
    assert {row.status for row in rows} == {"no_evidence", "not_automatable"}
    assert not any(row.digest for row in rows)


def test_an_artifact_shows_it_or_not() -> None:
    check = {"kind": "artifact", "shows": "sources_hashed"}
    dataset = Dataset(key="d", sources=(Source(path="a", num_bytes=1, sha256="0"),))
    assert status(check, dataset=dataset) == ("passed", dataset.digest)
    assert status(check, dataset=Dataset(key="d")) == ("no_evidence", "")


@pytest.mark.parametrize(
    ("outcome", "wanted"), [("passed", "passed"), ("failed", "failed"), ("inconclusive", "no_evidence")]
)
def test_a_gate_that_cannot_say_is_no_evidence(outcome: str, wanted: str) -> None:
    gate = GateReport.model_validate({"key": "g", "outcome": outcome})
    assert status({"kind": "artifact", "shows": "gate_passed"}, gate=gate) == (wanted, gate.digest)


@pytest.mark.parametrize(
    ("limit", "wanted"),
    [
        ({"at_least": 0.6}, "passed"),
        ({"at_least": 0.7}, "no_evidence"),
        ({"at_least": 0.9}, "failed"),
        ({"at_most": 0.8}, "passed"),
        ({"at_most": 0.5}, "failed"),
    ],
)
def test_a_task_is_settled_by_its_interval(limit: dict[str, float], wanted: str) -> None:
    score = Score(task="bbq", metric="accuracy", value=0.7, ci_low=0.6, ci_high=0.8, num_items=80)
    check = {"kind": "task", "task": "bbq", "metric": "accuracy", **limit}
    assert status(check, quantized_report=EvalReport(key="q", scores=(score,)))[0] == wanted
    assert status(check, quantized_report=EvalReport(key="q")) == ("no_evidence", "")


def test_people_judge_with_a_file(tmp_path: Path) -> None:
    path = tmp_path / "review.txt"
    path.write_text("reviewed")
    check = {"kind": "manual", "verdict": "passed", "by": "A. Person", "file": str(path)}
    assert status(check) == ("passed", sha256_of(path))
    with pytest.raises(InputError, match="cannot be read"):
        status({**check, "file": str(tmp_path / "gone")})


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{id: A, source: s, text: t, check: {kind: manual, verdict: passed}}", "a verdict needs `by`"),
        ("{id: A, source: s, text: t, check: {kind: task, task: t, metric: m}}", "one of at_least and at_most"),
        ("{id: A, source: s, text: t, cheque: 1}", "unknown key"),
        ("{id: B, source: s, text: t}", "given twice: B"),
    ],
)
def test_a_wrong_register_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(f"name: own\nsource: s\nindicators:\n  - {{id: B, source: s, text: t}}\n  - {line}\n")
    with pytest.raises(ConfigError, match=r"own\.yaml") as caught:
        load_yaml(path, Register)
    assert said in str(caught.value)
