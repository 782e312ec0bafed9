"""Models of other systems' verdicts, from their public documentation, over series of one-minute aggregates.

Each takes arrays of rollouts x minutes and returns the minute after which it rolls back, or infinity. `documented` settings are
those of the pages named; `told` ones use a limit half-way between stable's true value and the planted effect, which nobody
knows in practice.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]

FLAGGER_THRESHOLD = 5
"""Failed checks before rollback; interval 1m, success rate at least 99 %, p99 at most 500 ms: the example at
https://fluxcd.io/flagger/usage/metrics and https://docs.flagger.app/usage/how-it-works ("max number of failed metric checks
before rollback"; the counter is not set back by a good check)."""
ARGO_FAILURE_LIMIT, ARGO_INTERVAL_MIN, ARGO_SUCCESS = 3, 5, 0.95
"""https://argo-rollouts.readthedocs.io/en/stable/features/analysis/, background analysis: interval 5m, result >= 0.95,
failureLimit 3, which is exceeded by the fourth failed measurement. Measurements that fail to be taken count against
consecutiveErrorLimit (4); here none do."""
KAYENTA_CONFIDENCE, KAYENTA_TOLERANCE, KAYENTA_INTERVAL_MIN = 0.98, 0.25, 15
"""https://spinnaker.io/docs/guides/user/canary/judge: Mann-Whitney U with a confidence interval of 98 % for the Hodges-Lehmann
shift, high when its lower end is above 25 % of the estimate. At least 50 points a run are advised, with runs of an hour
(https://spinnaker.io/docs/guides/user/canary/best-practices/); we judge a growing window each quarter of an hour instead, which
finds harm earlier. The metric is critical: high fails the canary. The baseline gets as many requests as the canary, as advised."""


def flagger(minutes_over_limit: NDArray[np.bool_], threshold: int = FLAGGER_THRESHOLD) -> Array:
    """Checks each minute; rolled back at the `threshold`-th failed one."""
    return _first(np.cumsum(minutes_over_limit, axis=1) >= threshold)


def argo(failed: NDArray[np.bool_], interval_min: int) -> Array:
    """Measurements each `interval_min`; rolled back at the first beyond the failure limit."""
    measured = np.zeros_like(failed)
    measured[:, interval_min - 1 :: interval_min] = failed[:, interval_min - 1 :: interval_min]
    return _first(np.cumsum(measured, axis=1) > ARGO_FAILURE_LIMIT)


def kayenta(baseline: Array, canary: Array) -> Array:
    """Judged at the end of each interval over all minutes so far."""
    fails = np.zeros(baseline.shape, bool)
    for end in range(KAYENTA_INTERVAL_MIN, baseline.shape[1] + 1, KAYENTA_INTERVAL_MIN):
        fails[:, end - 1] = _is_high(baseline[:, :end], canary[:, :end])
    return _first(fails)


def _is_high(baseline: Array, canary: Array) -> NDArray[np.bool_]:
    """Hodges & Lehmann's estimate and its interval, by the normal approximation with the correction for ties."""
    num = baseline.shape[1]
    high = np.zeros(len(baseline), bool)
    for rollout in range(len(baseline)):  # one at a time: pairs of all minutes are many
        differences = np.sort((canary[rollout][:, None] - baseline[rollout]).ravel())
        _, ties = np.unique(np.concatenate([baseline[rollout], canary[rollout]]), return_counts=True)
        total = 2 * num
        variance = num * num / 12 * (total + 1 - (ties**3 - ties).sum() / (total * (total - 1)))
        width = stats.norm.ppf(0.5 + KAYENTA_CONFIDENCE / 2) * np.sqrt(variance)
        lower = differences[max(0, int(np.floor(num * num / 2 - width)))]
        high[rollout] = lower > KAYENTA_TOLERANCE * abs(np.median(differences))
    return high


def _first(reached: NDArray[np.bool_]) -> Array:
    return np.where(reached.any(axis=1), reached.argmax(axis=1) + 1.0, np.inf)
