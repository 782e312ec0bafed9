"""Which weight of consolidation: the smallest that retains enough of the old documents' score, since it lets most be learnt.

A larger weight is taken to retain more. So the middle one is tried first, and half of the others after it need not be. Each one
tried is a whole run, an artifact of its own; a search that was interrupted finds what it has made and goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cluster import artifacts
from cluster.artifacts import Checkpoint, WeightAttempt, WeightSearch
from cluster.errors import ConfigError, StageFailed
from cluster.storage import Storage
from pipelines.config import ConsolidationConfig, TrainConfig
from pipelines.progress import say


def next_place(num: int, retains: Mapping[int, bool]) -> int | None:
    """Which of `num` ascending weights to try next; None once the smallest that retains enough is known, or that none does.

    Args:
        retains: of those that were tried, whether it was enough.
    """
    low = max((place + 1 for place, enough in retains.items() if not enough), default=0)
    high = min((place for place, enough in retains.items() if enough), default=num)
    return (low + high) // 2 if low < high else None


def search(
    config: TrainConfig, inputs: dict[str, Any], storage: Storage, run: Callable[[TrainConfig], Checkpoint]
) -> Checkpoint:
    """The model made with the weight that is taken.

    Args:
        inputs: role -> manifest: dataset, base, consolidated, and a teacher where there is one.
        run: trains with one weight.

    Raises:
        ConfigError: the old documents have none held out to choose by.
        StageFailed: no weight retains enough. What was trained is kept.
    """
    asked = config.consolidation
    assert asked is not None
    assert asked.asked_percent is not None
    tried: dict[int, Checkpoint] = {}
    while (place := next_place(len(asked.weights), _enough(asked, tried))) is not None:
        weight = asked.weights[place]
        if len(asked.weights) > 1:
            say("train", f"consolidation with weight {weight:g}")
        made = run(config.replace(consolidation=asked.replace(weight=weight, min_retention_percent=None)))
        if made.retention is None:
            raise ConfigError(
                "train.consolidation.min_retention_percent",
                f"dataset {asked.dataset} has too few held-out documents to measure by (less than a sequence)",
                "raise data.heldout_fraction where it is made, or give one weight and no min_retention_percent",
            )
        tried[place] = made
    taken = min((place for place, enough in _enough(asked, tried).items() if enough), default=None)
    _record(config, inputs, tried, taken, storage)
    if taken is None:
        raise StageFailed(_none_of(asked, tried))
    return tried[taken]


def _enough(asked: ConsolidationConfig, tried: Mapping[int, Checkpoint]) -> dict[int, bool]:
    wanted = asked.asked_percent or 0.0
    return {place: made.retention.percent >= wanted for place, made in tried.items() if made.retention is not None}


def _none_of(asked: ConsolidationConfig, tried: Mapping[int, Checkpoint]) -> str:
    place, made = max(tried.items())
    assert made.retention is not None
    return (
        f"train: {made.retention.percent:.1f} % of the old documents' score is retained with consolidation's largest weight,"
        f" {asked.weights[place]:g}, and {asked.asked_percent:g} % is asked for ({made.location})\n"
        "  -> give larger weights in train.consolidation.weight, lower train.learning_rate, or add train.replay"
    )


def _record(
    config: TrainConfig,
    inputs: dict[str, Any],
    tried: Mapping[int, Checkpoint],
    taken: int | None,
    storage: Storage,
) -> None:
    """Written anew each time: what it rests on is found under the digests in it."""
    asked = config.consolidation
    assert asked is not None
    digests, settings = {role: one.digest for role, one in inputs.items()}, config.model_dump(mode="json")
    made = WeightSearch(
        key=artifacts.stage_key("weight_search", settings, digests),
        inputs=digests,
        config=settings,
        chosen=None if taken is None else asked.weights[taken],
        min_retention_percent=asked.asked_percent or 0.0,
        attempts=tuple(_attempt(asked.weights[place], tried[place]) for place in sorted(tried)),
        took_s=sum(one.took_s for one in tried.values()),
    )
    if len(asked.weights) > 1:
        say("train", made.summary)
    artifacts.save(storage, made)


def _attempt(weight: float, made: Checkpoint) -> WeightAttempt:
    assert made.retention is not None
    last = made.losses[-max(1, len(made.losses) // 10) :]
    return WeightAttempt(
        weight=weight,
        checkpoint=made.digest,
        retention_percent=made.retention.percent,
        loss=sum(point.loss for point in last) / len(last),
        took_s=made.took_s,
    )
