"""What the comparison of training makes of the times that ranks noted, and the sequences of its bare side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.training.batches import Packed
from pipelines.training.packing import Stream

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture(autouse=True)
def beside_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])


def noted(step_s: float, cpu_s: float, num: int = 6) -> dict[str, Any]:
    """A start whose first three steps take ten times as long, on two ranks and with half as much again by other processes."""
    took = [10 * step_s] * 3 + [step_s] * (num - 3)
    clock = 100.0 + np.concatenate([[0.0], np.cumsum(took)])
    ends = [[float(at), step * cpu_s, 0.0] for step, at in enumerate(clock)]
    marks = {"entered": [92.0, 1.0, 0.0], "built": [97.0, 2.0, 0.0], "loaded": [99.0, 2.5, 0.0]}
    rank = {"began": 90.0, **marks, "ends": ends, "losses": [2.0] * num, "side_cpu_s": [9 * cpu_s, 3 * num * cpu_s]}
    return {"begun": 85.0, "driver": {"tokenised_s": 1.5}, "ranks": [rank, rank]}


def test_the_first_steps_are_left_out_and_the_rest_is_counted_by_rank() -> None:
    import bench_train

    found = bench_train.steady(noted(0.5, 0.25), steps=6, tokens=100)
    assert found["tokens_per_s"] == found["mean_tokens_per_s"] == pytest.approx(200)
    assert found["rank_cpu_s"] == pytest.approx(0.25)
    assert found["cpu_s"] == pytest.approx(0.75)
    until = bench_train.resumed(noted(0.5, 0.25))
    assert [until[f"{name}_s"] for name in bench_train.MARKS] == pytest.approx([2.0, 7.0, 9.0, 15.0])
    assert [until[f"{name}_cpu_s"] for name in bench_train.MARKS] == pytest.approx([1.0, 2.0, 2.5, 0.25])
    assert until["before_s"] == pytest.approx(5.0)
    assert bench_train.once(noted(0.5, 0.25)) == {"tokenised_s": 1.5}


def test_ratios_are_of_one_repeat_each() -> None:
    import bench_train

    def figures(side: str, repeat: int, step_s: float) -> dict[str, Any]:
        start = noted(step_s, 0.1)
        return {"side": side, "repeat": repeat} | bench_train.steady(start, 6, 100) | bench_train.resumed(start)

    found = [figures("serinus", 1, 1.0), figures("bare", 1, 0.9), figures("bare", 2, 1.0), figures("serinus", 2, 1.0)]
    (line, losses) = bench_train.summary(found)
    assert line.startswith("serinus / bare, 2 repeats: tokens/s 0.950 [0.900, 1.000]; ")
    assert losses.endswith("0.0e+00")


@pytest.mark.parametrize("end", [None, 0])
def test_the_bare_side_has_our_sequences(end: int | None) -> None:
    import train_bare

    tokens = np.random.default_rng(0).integers(0, 9, 100)
    bare, ours = train_bare.Sequences(tokens, 16, end), Packed(Stream([tokens]), 16, end)
    assert len(bare) == ours.num == 7
    for number in range(7):
        found, wanted = bare[number], ours.batch([number])
        assert found["input_ids"].tolist() == wanted.inputs["input_ids"][0].tolist()
        assert found["labels"].tolist() == wanted.labels[0].tolist()
        if end is not None:
            assert found["position_ids"].tolist() == wanted.inputs["position_ids"][0].tolist()
