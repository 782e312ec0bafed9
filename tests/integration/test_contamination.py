"""Contamination measured by the workers of a real pool: the same as in one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster import artifacts
from pipelines.contamination import measure
from tests.unit.pipelines.test_contamination import Bench

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_cluster")]


def test_on_a_pool_as_in_one_process(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    here = bench.measure()
    rows = bench.rows(here)
    artifacts.retire(bench.storage, here)
    there = measure(bench.recipe(), bench.dataset, bench.storage)
    assert len(bench.dataset.batches) > 1
    assert (there.digest, bench.rows(there)) == (here.digest, rows)
    assert there.made_at > here.made_at
