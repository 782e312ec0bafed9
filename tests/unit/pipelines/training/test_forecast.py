"""The gate before a stage: what it asks, and what it says when it says no."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.artifacts import Forecast, Prediction, StageRun
from pipelines.config import ForecastGateConfig
from pipelines.training.forecast import Size, forecast

COMING, GOAL = Size(900_000, 800_000), Size(2_000_000, 800_000)


def run(stage: int, num_parameters: int, num_tokens: int, loss: float, **fields: Any) -> StageRun:
    given = {"num_parameters": num_parameters, "num_tokens": num_tokens, "loss": loss}
    return StageRun(key=f"{stage}-{num_tokens}", stage=stage, **given, **fields)


def loss(num_parameters: int, num_tokens: int) -> float:
    return 2 + 0.8 * (num_parameters / 2e5) ** -0.35 + 1.5 * (num_tokens / 2e5) ** -0.3


def told(low: float, high: float) -> Prediction:
    return Prediction(
        num_parameters=600_000, num_tokens=800_000, loss=(low + high) / 2, low=low, high=high, confidence=0.9
    )


def finished(*stages: int, came: Prediction | None = None) -> list[StageRun]:
    sizes = {1: 200_000, 2: 600_000}
    runs = [run(s, sizes[s], d, loss(sizes[s], d)) for s in stages for d in (200_000, 400_000, 800_000)]
    return [*runs[:-1], runs[-1].replace(prediction=came)]


def made(runs: list[StageRun], **asked: Any) -> Forecast:
    return Forecast(key="f", **forecast(ForecastGateConfig.model_validate(asked), runs, [COMING], GOAL))


def test_a_good_course_goes_on() -> None:
    found = made(finished(1, 2, came=told(3.0, 3.9)))
    assert found.passed
    assert [check.name for check in found.checks] == ["fit", "interval", "came true"]
    assert (found.num_runs, found.num_sizes) == (6, 2)
    assert found.predictions[-1].low < loss(*COMING) < found.predictions[-1].high
    assert found.goal is not None
    assert found.goal.low < loss(*GOAL) < found.goal.high
    assert found.coefficients["alpha"].low < 0.35 < found.coefficients["alpha"].high
    assert "passed: loss " in found.summary
    assert "predicted from 6 run(s) of 2 size(s)" in found.summary


def test_before_the_second_stage_no_interval_is_asked() -> None:
    found = made(finished(1), max_interval_percent=0.5)
    assert [check.name for check in found.checks] == ["fit"]
    assert found.passed
    assert found.predictions[-1].percent > 5


@pytest.mark.parametrize(
    ("asked", "came", "name", "says"),
    [
        ({"max_interval_percent": 0.5}, told(3, 4), "interval", "at most 0.5 % is asked: add num_tokens or a size"),
        ({"max_fit_error_percent": 0.00001}, told(3, 4), "fit", "at most 1e-05 % is asked: compare their losses"),
        ({"max_loss": 2.0}, told(3, 4), "goal", "2 is asked: give it more parameters or tokens"),
        ({}, told(3.6, 4), "came true", "predicted 3.800 [3.600, 4.000] at 90%: the law does not hold"),
        ({}, told(2, 3), "came true", "the law does not hold"),
    ],
)
def test_what_ends_a_course(asked: dict[str, Any], came: Prediction, name: str, says: str) -> None:
    found = made(finished(1, 2, came=came), **asked)
    assert not found.passed
    (failed,) = [check for check in found.checks if not check.passed]
    assert failed.name == name
    assert says in failed.message
    assert found.summary.startswith("failed: ")


def test_a_goal_that_can_still_be_reached_is_no_reason_to_stop() -> None:
    reachable = loss(*GOAL)
    assert made(finished(1, 2), max_loss=reachable).passed
    assert made(finished(1), max_loss=reachable - 0.1).passed, "one size leaves much open"
    assert not made(finished(1, 2), max_loss=reachable - 0.5).passed
