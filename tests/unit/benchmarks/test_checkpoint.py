"""What bench_checkpoint.py makes of the ranks' times."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture(autouse=True)
def beside_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])


def rank(stood: list[float], write: list[float]) -> dict[str, list[float]]:
    return {"stood_s": stood, "copy_s": [], "write_s": write, "ends": [10.0, 11.0, 12.0], "joined": [13.5]}


def test_the_slower_rank_counts_and_the_first_checkpoint_stands_apart() -> None:
    import bench_checkpoint

    found = bench_checkpoint.figures([rank([3.0, 1.0, 2.0], [3.0, 1.0, 1.0]), rank([2.0, 1.5, 1.0], [2.0, 1.5, 1.0])])
    assert found == {"stood_s": [3.0, 1.5, 2.0], "copy_s": [], "write_s": [3.0, 1.5, 1.0], "loop_s": 3.5}
    (none, waiting) = bench_checkpoint.told([{"side": "waiting", **found}, {"side": "none", "loop_s": 2.0}])
    assert none.split() == ["none", "loop", "2.0", "s"]
    assert "stood 1.750 s [1.500, 2.000] a checkpoint, the first 3.000 s  write 1.50 s  loop 3.5 s" in waiting


def test_sides_differ_in_nothing_else() -> None:
    import argparse

    import bench_checkpoint

    given = argparse.Namespace(saves=5, every=4)
    waiting, beside = (bench_checkpoint.training(given, side) for side in ("waiting", "beside"))
    assert waiting.replace(checkpoint_asynchronously=True) == beside
    assert beside.num_steps == 24
