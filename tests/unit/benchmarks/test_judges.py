"""The models that our verdict is compared with, on series whose verdict is plain."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture(autouse=True)
def beside_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])


def test_flagger_counts_failed_checks_and_never_forgets() -> None:
    import peer_judges

    over = np.array([[1, 0, 1, 0, 1, 1, 0, 1], [1, 1, 1, 1, 0, 0, 0, 0]], bool)
    assert peer_judges.flagger(over).tolist() == [8, np.inf]


def test_argo_fails_beyond_its_limit_of_measurements() -> None:
    import peer_judges

    failed = np.ones((1, 30), bool)
    assert peer_judges.argo(failed, 5).tolist() == [20]  # the fourth measurement
    failed[:, 4] = False
    assert peer_judges.argo(failed, 5).tolist() == [25]


def test_kayenta_sees_a_shift_and_lets_equal_series_pass() -> None:
    import peer_judges

    generator = np.random.default_rng(1)
    baseline, alike = generator.normal(10, 1, (2, 3, 30))
    assert np.isinf(peer_judges.kayenta(baseline, alike)).all()
    assert peer_judges.kayenta(baseline, alike + 3).tolist() == [15, 15, 15]


def test_the_fixed_sample_has_its_level_and_power() -> None:
    import bench_judges

    n = bench_judges.fixed_binomial(0.01, 0.025, 0.01)
    critical = stats.binom.isf(0.01, n, 0.01)
    assert stats.binom.sf(critical, n, 0.01) <= 0.01
    assert stats.binom.sf(critical, n, 0.025) >= 0.95


def test_every_scenario_runs_without_the_traces(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
                                                tmp_path: Path) -> None:  # fmt: skip
    import bench_judges
    import judge_traffic

    monkeypatch.setattr(judge_traffic, "DATA", tmp_path)
    traces = bench_judges.load_traces(np.random.default_rng(1))
    assert "Poisson" in capsys.readouterr().out
    found = bench_judges.run(traces, 6, 1, bench_judges.simulate_errors, 0.2)
    assert found["serinus"].rolled_back.all()
    assert (found["serinus"].needed < 200).all()
    bench_judges.report_harm("x", found, "requests", "harmed")
    assert "| serinus | 0.0% |" in capsys.readouterr().out
