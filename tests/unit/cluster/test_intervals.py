from __future__ import annotations

import pytest

from cluster.intervals import wilson


@pytest.mark.parametrize(
    ("num", "of", "low", "high"), [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)]
)
def test_wilson_s_interval(num: int, of: int, low: float, high: float) -> None:
    """Newcombe 1998 (Statistics in Medicine 17, table I, method 3)."""
    assert wilson(num, of) == pytest.approx((low, high), abs=5e-5)
