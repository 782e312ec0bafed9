"""What is told of a stage, to meters that write it down; and that no meter can hurt a stage."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import telemetry as names
from cluster.artifacts import (
    Checkpoint,
    Dataset,
    EvalReport,
    GateReport,
    Incident,
    Ledger,
    Privacy,
    QuantizedModel,
    SchemeAttempt,
    SchemeSearch,
    Score,
    Source,
)
from cluster.log_format import JsonFormatter
from pipelines import measures, meters
from pipelines.outcomes import MOST_REASONS, outcomes
from pipelines.progress import bar

STAGE = {"model": "m", "stage": "clean"}
LONG_AGO = datetime.now(UTC) - timedelta(days=1)


class Written:
    """Meters that keep the newest value of each gauge and the sum of each counter."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}

    def set(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        self.values[name, frozenset(labels.items())] = value

    def add(self, name: str, number: float, labels: Mapping[str, str]) -> None:
        self.values[name, frozenset(labels.items())] = self.of(name, **labels) + number

    def of(self, name: str, **labels: str) -> float:
        return self.values.get((name, frozenset(labels.items())), 0)

    def names(self) -> set[str]:
        return {name for name, _ in self.values}


DATASET = Dataset(
    key="d",
    sources=(Source(path="a", num_bytes=600, sha256=""), Source(path="b", num_bytes=400, sha256="")),
    num_documents=10,
    num_train=5,
    num_heldout=2,
    num_excluded_by_reason={"too_short": 2, "exact_duplicates": 1},
    num_characters_in=900,
    num_characters_kept=700,
    took_s=2.0,
)


def ended(told: Written, outcome: str) -> float:
    return told.of(names.STAGE_ENDED, **STAGE, artifact="dataset", outcome=outcome)


def test_a_cleaning_from_its_beginning_to_its_end() -> None:
    told = Written()
    with measures.watched("m", "clean", "dataset", told) as stage:
        assert told.of(names.STAGE_RUNNING, **STAGE) == 1
        assert told.of(names.STAGE_BEGAN, **STAGE) == pytest.approx(datetime.now(UTC).timestamp(), abs=60)
        with bar("clean", None, "documents") as progress:
            progress.update(7)
        with bar("clean", 4, "shards") as progress:
            progress.update(3)
        stage.made(DATASET.replace(made_at=datetime.now(UTC)))
    assert measures.current() is None
    assert told.of(names.STAGE_RUNNING, **STAGE) == 0
    assert ended(told, "made") == 1
    assert told.of(names.STAGE_SECONDS, **STAGE, artifact="dataset", outcome="made") > 0
    assert told.of(names.STAGE_DONE, **STAGE, unit="documents") == 7
    assert (names.STAGE_PLANNED, frozenset({**STAGE, "unit": "documents"}.items())) not in told.values
    assert told.of(names.STAGE_PLANNED, **STAGE, unit="shards") == 4
    assert told.of(names.CLEAN_BYTES, model="m") == 1000
    assert told.of(names.CLEAN_SPEED, model="m") == 500
    assert told.of(names.CLEAN_CHARACTERS, model="m", result="kept") == 700
    results = {
        name: told.of(names.CLEAN_DOCUMENTS, model="m", result=name) for name in ("train", "heldout", "excluded")
    }
    assert results == {"train": 5, "heldout": 2, "excluded": 3}
    assert told.of(names.CLEAN_EXCLUDED, model="m", reason="too_short") == 2


def test_what_was_there_before_is_cached_and_counted_no_second_time() -> None:
    told = Written()
    with measures.watched("m", "clean", "dataset", told) as stage:
        stage.made(DATASET.replace(made_at=LONG_AGO))
    assert (ended(told, "cached"), ended(told, "made")) == (1, 0)
    assert names.CLEAN_DOCUMENTS not in told.names()


@pytest.mark.parametrize(("raised", "outcome"), [(ValueError, "failed"), (KeyboardInterrupt, "interrupted")])
def test_a_stage_that_breaks_off(raised: type[BaseException], outcome: str) -> None:
    told = Written()
    with pytest.raises(raised), measures.watched("m", "clean", "dataset", told):
        raise raised
    assert ended(told, outcome) == 1
    assert told.of(names.STAGE_RUNNING, **STAGE) == 0


def test_figures_of_a_step_and_when_the_next_one_is_awaited() -> None:
    told = Written()
    with measures.watched("m", "train", "trained", told) as stage:
        stage.awaits_step(True)
        assert told.of(names.TRAIN_STEP_AT, model="m") > 1e9
        stage.step(
            {"loss": 2.5, "tokens_per_s": 9.0, "checkpoint_s": 3.0, "epsilon": 0.1, "rollbacks": 1.0, "odd": 1.0}
        )
        stage.step({"loss": 2.0, "tokens_per_s": 8.0, "checkpoint_s": 4.0, "reward": 0.5})
        stage.awaits_step(False)
    assert told.of(names.TRAIN_STEP_AT, model="m") == 0
    assert told.of(names.TRAIN_LOSS, model="m") == 2.0
    assert told.of(names.TRAIN_EPSILON, model="m") == 0.1
    assert told.of(names.TRAIN_REWARD, model="m") == 0.5
    assert told.of(names.TRAIN_ROLLBACKS, model="m") == 1
    assert (told.of(names.TRAIN_CHECKPOINTS, model="m"), told.of(names.TRAIN_CHECKPOINT_SECONDS, model="m")) == (2, 7)


def found(artifact: Any, role: str = "trained", *, is_new: bool = True) -> dict[tuple[str, ...], float]:
    told = outcomes(artifact, role, is_new=is_new)
    return {(one.name, *one.labels.values()): one.value for one in (*told.gauges, *told.counts)}


def test_what_artifacts_say() -> None:
    score = Score(task="qa", metric="f1", value=0.5, ci_low=0.4, ci_high=0.6, num_items=10)
    assert found(EvalReport(key="e", scores=(score,)), "base_report") == {
        (names.EVALUATE_SCORE, "base_report", "qa", "f1"): 0.5
    }
    attempts = (SchemeAttempt(scheme="w4a16", outcome="refused"), SchemeAttempt(scheme="w8a8", outcome="passed"))
    assert found(SchemeSearch(key="s", attempts=attempts)) == {
        (names.QUANTIZE_SCHEME, "w4a16", "refused"): 1,
        (names.QUANTIZE_SCHEME, "w8a8", "passed"): 1,
    }
    assert found(QuantizedModel(key="q", scheme="w8a8", num_weight_bytes=7)) == {(names.QUANTIZE_BYTES, "w8a8"): 7}
    verdict = GateReport(key="g", outcome="inconclusive", passed=False)
    assert found(verdict) == {(names.GATE_VERDICTS, "inconclusive"): 1}
    assert found(verdict, is_new=False) == {}


def test_a_trained_model_tells_its_utilization_and_what_of_the_privacy_budget_is_spent() -> None:
    privacy = Privacy.model_construct(epsilon_of_data=2.7)
    ledger = Ledger.model_construct(mfu=0.4, privacy=privacy)
    incident = Incident(step=3, reason="", sequences_checksum=0)
    model = Checkpoint.model_construct(
        ledger=ledger, incidents=(incident,), resumed_at_steps=(2, 4), config={"privacy": {"budget": {"epsilon": 3.0}}}
    )
    assert found(model) == {
        (names.TRAIN_ROLLBACKS,): 1,
        (names.TRAIN_RESUMES,): 2,
        (names.TRAIN_MFU,): 0.4,
        (names.TRAIN_BUDGET_SPENT,): pytest.approx(0.9),
    }
    without = model.model_copy(update={"ledger": ledger.model_copy(update={"mfu": None, "privacy": None})})
    assert len(found(without)) == 2


def test_reasons_are_bounded() -> None:
    many = {f"rule_{number:03}": 1000 - number for number in range(MOST_REASONS + 10)}
    told = found(Dataset(key="d", num_documents=sum(many.values()), num_excluded_by_reason=many))
    reasons = {labels[0]: value for (name, *labels), value in told.items() if name == names.CLEAN_EXCLUDED}
    assert len(reasons) == MOST_REASONS + 1
    assert sum(reasons.values()) == sum(many.values())
    assert reasons["other"] == sum(sorted(many.values())[:10])


class Failing(Written):
    calls = 0

    def set(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        self.calls += 1
        raise RuntimeError("the exporter is gone")


def test_meters_that_fail_are_left_out_and_the_stage_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(meters, "say", lambda _, message: said.append(message))
    failing = Failing()
    with measures.watched("m", "clean", "dataset", meters.Guarded(failing)) as stage:
        stage.made(DATASET)
    assert failing.calls == 1
    assert not failing.values
    assert said == ["warning: they failed (RuntimeError) and are left out from here on"]


def test_without_a_cluster_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    with meters.exported() as nobody, measures.watched("m", "clean", "dataset", nobody) as stage:
        stage.made(DATASET)
    assert "ray" not in sys.modules


class Refreshed(Written):
    times = 0

    def refresh(self) -> None:
        self.times += 1


def test_gauges_are_told_again_while_a_recipe_is_made_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    ray, told = SimpleNamespace(is_initialized=lambda: True), Refreshed()
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(meters, "RayMeters", lambda: told)
    monkeypatch.setattr(meters, "REFRESH_S", 0.01)
    with meters.exported():
        deadline = time.monotonic() + 10
        while told.times < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    times = told.times
    assert times > 3
    time.sleep(0.05)
    assert told.times == times


def test_each_metric_of_the_stages_is_described() -> None:
    prefixes = ("STAGE_", "CLEAN_", "TRAIN_", "EVALUATE_", "QUANTIZE_", "GATE_")
    assert set(meters.DESCRIPTIONS) == {value for name, value in vars(names).items() if name.startswith(prefixes)}


def test_lines_of_the_log_are_about_the_stage() -> None:
    record = logging.LogRecord("serinus.clean", logging.INFO, "", 0, "told", None, None)
    with measures.watched("m", "clean", "dataset", Written()):
        assert '"stage": "clean"' in JsonFormatter().format(record)
    assert '"stage"' not in JsonFormatter().format(record)
