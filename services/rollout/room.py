"""Replicas a canary needs for its share, asked for before it gets the share. Pure."""

from __future__ import annotations

import math


def replicas_needed(num_stable: int, weight_before_percent: float, weight_percent: float) -> int:
    """Replicas for `weight_percent` of the users, `num_stable` carrying those that are not on the canary now.

    A canary with a share w beside S replicas for the rest needs w / (1 - w) * S. Stable may still have more replicas than its
    coming share needs, so that this errs upwards; more than all users need now, S / (1 - w before), is never asked for.
    """
    before, share = min(weight_before_percent, 100) / 100, weight_percent / 100
    if share <= 0 or before >= 1:
        return 1 if share > 0 else 0
    everybody = num_stable / (1 - before)
    beside = num_stable * share / (1 - share) if share < 1 else math.inf
    return max(1, math.ceil(min(beside, everybody) - 1e-9))
