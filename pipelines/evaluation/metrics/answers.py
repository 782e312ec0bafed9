"""What every metric asks first: one prediction for each item, and a right answer to hold it against."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from cluster.errors import InputError

V = TypeVar("V")
P = TypeVar("P")


def by_id(name: str, records: Iterable[tuple[str, V]]) -> dict[str, V]:
    """Records by their ids.

    Raises:
        InputError: an id is given twice, or there are no records.
    """
    listed = list(records)
    twice = [key for key, count in Counter(key for key, _ in listed).items() if count > 1]
    if twice or not listed:
        found = f"{len(twice)} id(s) are given twice (first {twice[0]})" if twice else "holds no items"
        raise InputError(name, found, "give each item once, with an id of its own")
    return dict(listed)


def paired(name: str, golds: Mapping[str, V], predictions: Mapping[str, P]) -> list[tuple[str, V, P]]:
    """(id, gold, prediction) in the golds' order: nothing missing is ever scored zero.

    Raises:
        InputError: an item without a prediction or gold, a prediction without an item, a figure that is not finite.
    """
    problems = {
        "without a prediction": [key for key in golds if predictions.get(key) is None],
        "without a right answer": [key for key, gold in golds.items() if gold is None],
        "predicted, which no item is": [key for key in predictions if key not in golds],
        "whose prediction is not a number": [key for key, found in predictions.items() if _is_nan(found)],
    }
    found = [f"{len(keys)} item(s) {what} (first {keys[0]})" for what, keys in problems.items() if keys]
    if found or not golds:
        raise InputError(name, "; ".join(found) or "holds no items", "evaluate exactly the items of the task")
    return [(key, gold, predictions[key]) for key, gold in golds.items()]


def mean_percent(values: Sequence[float]) -> float:
    return 100 * sum(values) / len(values)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
