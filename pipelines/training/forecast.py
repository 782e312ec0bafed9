"""What the runs so far say of the next stage, and whether it may start. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from cluster.artifacts import Coefficient, ForecastCheck, Prediction, StageRun
from pipelines.config import ForecastGateConfig
from pipelines.training.scaling import Law, Point, fit, fit_error

LAW = "L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, arXiv 2203.15556, equation 2)"


class Size(NamedTuple):
    """Of a run to come."""

    num_parameters: int
    num_tokens: int


class _Said(NamedTuple):
    """What checks are made of."""

    predictions: tuple[Prediction, ...]
    goal: Prediction
    error: float
    """Percent."""
    num_sizes: int


def forecast(gate: ForecastGateConfig, runs: Sequence[StageRun], coming: Sequence[Size], goal: Size) -> dict[str, Any]:
    """The fields of a Forecast.

    Args:
        runs: finished ones, in their order.
        coming: the next stage's runs, in theirs.
        goal: the last stage's own run.
    """
    points = [Point(run.num_parameters, run.num_tokens, run.loss) for run in runs]
    law = fit(points)
    error = 100 * fit_error(law, points)
    predictions = tuple(_prediction(law, size, gate.confidence) for size in coming)
    aim = _prediction(law, goal, gate.confidence)
    num_sizes = len({run.num_parameters for run in runs})
    checks = tuple(_checks(gate, runs, _Said(predictions, aim, error, num_sizes)))
    return {
        "law": LAW,
        "num_runs": len(runs),
        "num_sizes": num_sizes,
        "coefficients": _coefficients(law, gate.confidence),
        "fit_error_percent": round(error, 4),
        "predictions": predictions,
        "goal": aim,
        "checks": checks,
        "passed": all(check.passed for check in checks),
    }


def _prediction(law: Law, size: Size, confidence: float) -> Prediction:
    found = law.predict(*size, confidence)
    figures = {name: round(value, 5) for name, value in found._asdict().items()}
    return Prediction(**size._asdict(), **figures, confidence=confidence)


def _coefficients(law: Law, confidence: float) -> dict[str, Coefficient]:
    levels = [(1 - confidence) / 2, 0.5, (1 + confidence) / 2]
    found = {name: np.quantile(draws, levels) for name, draws in law.coefficients.items()}
    return {
        name: Coefficient(low=float(f"{low:.4g}"), median=float(f"{middle:.4g}"), high=float(f"{high:.4g}"))
        for name, (low, middle, high) in found.items()
    }


def _checks(gate: ForecastGateConfig, runs: Sequence[StageRun], said: _Said) -> Iterator[ForecastCheck]:
    at, coming, goal = f"at {gate.confidence:.0%}", said.predictions[-1], said.goal
    yield _check(
        "fit",
        said.error <= gate.max_fit_error_percent,
        f"the runs lie {said.error:.2g} % from their law, at most {gate.max_fit_error_percent:g} % is asked",
        "compare their losses for one that did not learn (train.learning_rate, train.warmup_steps)",
    )
    if said.num_sizes > 1:
        yield _check(
            "interval",
            coming.percent <= gate.max_interval_percent,
            f"loss {coming.text} {at}, +-{coming.percent:.1f} %, at most {gate.max_interval_percent:g} % is asked",
            "add num_tokens or a size to the stages before, or make this one less of a step",
        )
    if (last := runs[-1]).prediction is not None:
        yield _check(
            "came true",
            last.is_as_predicted is True,
            f"the stage before came to {last.loss:.3f}, predicted {last.prediction.text} {at}",
            "the law does not hold from one stage to the next: look for what else differs between them",
        )
    if gate.max_loss is not None:
        yield _check(
            "goal",
            goal.low <= gate.max_loss,
            f"the last stage: loss {goal.text} {at}, {gate.max_loss:g} is asked",
            "give it more parameters or tokens, or ask for less (progressive.gate.max_loss)",
        )


def _check(name: str, passed: bool, found: str, remedy: str) -> ForecastCheck:
    return ForecastCheck(name=name, passed=passed, message=found if passed else f"{found}: {remedy}")
