"""The gate as a table: which figures pass which bounds, and what it says."""

import pytest

from cluster.artifacts import EvalReport, Score
from pipelines.config import GateConfig
from pipelines.evaluation.gate import judge


def report(perplexity: float, accuracy: float) -> EvalReport:
    def score(task: str, metric: str, value: float) -> Score:
        return Score(task=task, metric=metric, value=value, ci_low=value, ci_high=value, num_items=10)

    scores = (score("heldout", "perplexity", perplexity), score("choice", "accuracy", accuracy))
    return EvalReport(key="0" * 16, scores=scores)


BOUNDS = GateConfig(min_perplexity_drop_percent=15, min_recovery=0.98, max_quantized_perplexity_ratio=1.05)


@pytest.mark.parametrize(
    ("base", "trained", "quantized", "passed"),
    [
        ((20, 0.5), (16, 0.5), (16.5, 0.5), (True, True, True)),
        ((20, 0.5), (17, 0.5), (17, 0.5), (True, True, True)),  # exactly 15 %
        ((20, 0.5), (17.1, 0.5), (17.1, 0.5), (False, True, True)),
        ((20, 0.5), (25, 0.5), (25, 0.5), (False, True, True)),
        ((20, 0.5), (16, 0.5), (17, 0.5), (True, False, True)),
        ((20, 0.5), (16, 0.6), (16, 0.48), (True, True, False)),  # against base, not against the trained model
        ((20, 0.5), (16, 0.4), (16, 0.49), (True, True, True)),
        ((20, 0.0), (16, 0.0), (16, 0.0), (True, True, True)),
        ((20, 0.5), (30, 0.1), (40, 0.1), (False, False, False)),
    ],
)
def test_bounds(
    base: tuple[float, float], trained: tuple[float, float], quantized: tuple[float, float], passed: tuple[bool, ...]
) -> None:
    checks = judge(BOUNDS, report(*base), report(*trained), report(*quantized))
    assert tuple(check.passed for check in checks) == passed


def test_what_it_says() -> None:
    drop, ratio, recovery = judge(BOUNDS, report(20, 0.5), report(18, 0.5), report(19.8, 0.4))
    assert drop.message == ("heldout fell by 10.0 % with training (20.00 to 18.00), a fall of at least 15 % wanted")
    assert "1.100 times" in ratio.message
    assert "at most 1.05 allowed" in ratio.message
    assert "keeps 80.0 % of the base model's accuracy" in recovery.message
    [rose, *_] = judge(GateConfig(min_perplexity_drop_percent=-5), report(20, 1), report(22, 1), report(22, 1))
    assert "rose by 10.0 %" in rose.message
    assert "a rise of at most 5 % allowed" in rose.message
    assert not rose.passed
