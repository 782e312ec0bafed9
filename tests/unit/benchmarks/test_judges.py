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


def test_keys_are_counted_in_the_benchmark_as_the_judge_counts_users() -> None:
    import bench_judges

    from services.rollout.counting import Answer, Users, until_harm, while_well

    generator = np.random.default_rng(7)
    counts, on_canary = generator.integers(0, 9, (3, 20)), generator.random((3, 20)) < 0.4
    flags = [np.zeros((3, 20), bool) for _ in range(2)]
    judged: list[list[Users]] = [[{"stable": set(), "canary": set()} for _ in range(3)] for _ in range(2)]
    for _ in range(4):
        harmful = generator.random((9, 3, 20)) < 0.3
        found = bench_judges.count_keys(harmful, counts, on_canary, *flags)
        for rollout in range(3):
            answers = [Answer("canary" if on_canary[rollout, key] else "stable", float(key),
                              "empty" if harmful[place, rollout, key] else "")
                       for key in range(20) for place in range(counts[rollout, key])]  # fmt: skip
            for rule, kept, seen in zip(
                (until_harm, while_well), judged, (found.until_harm, found.while_well), strict=True
            ):
                tallies = rule(answers, kept[rollout])
                for side, role in enumerate(("stable", "canary")):
                    tally = tallies[role]
                    assert (seen[side][0][rollout], seen[side][1][rollout]) == (tally.num, tally.harms.total())


def test_a_key_that_fails_on_any_revision_condemns_no_canary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import bench_judges
    import judge_traffic

    monkeypatch.setattr(judge_traffic, "DATA", tmp_path)
    monkeypatch.setattr(judge_traffic, "SCHEDULE", ((0.05, 200.0), (0.5, 300.0)))
    traces = bench_judges.load_traces(np.random.default_rng(1))
    found = bench_judges.run(traces, 60, 5, bench_judges.simulate_keys, "one bad", 0.0)
    assert found["first harm"].rolled_back.mean() <= 0.05
    assert found["again after a good answer"].rolled_back.mean() > found["first harm"].rolled_back.mean()
    assert found["again after a good answer"].harmed.mean() > 0.8
