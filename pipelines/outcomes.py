"""What an artifact says that people watch over time, as metrics. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from cluster import telemetry as names
from cluster.artifacts import (
    Checkpoint,
    Dataset,
    EvalReport,
    GateReport,
    Manifest,
    QuantizedModel,
    SchemeSearch,
)

MOST_REASONS = 40
"""Reasons told apart: the filters' and the recipe's rules. Rarer ones beyond are told together, as `other`."""


class Figure(NamedTuple):
    """One value of a metric."""

    name: str
    value: float
    labels: Mapping[str, str] = {}


class Told(NamedTuple):
    """What there is to tell of an artifact."""

    gauges: tuple[Figure, ...] = ()
    counts: tuple[Figure, ...] = ()


def outcomes(artifact: Manifest, role: str, *, is_new: bool) -> Told:
    """Args:
    role: the artifact's in the recipe.
    is_new: whether it was made now. What was there before is counted no second time.
    """
    gauges, counts = _found(artifact, role)
    return Told(tuple(gauges), tuple(counts) if is_new else ())


def _found(artifact: Manifest, role: str) -> tuple[list[Figure], list[Figure]]:
    match artifact:
        case Dataset():
            return _cleaned(artifact)
        case Checkpoint():
            return _trained(artifact), []
        case EvalReport():
            of = [{"artifact": role, "task": score.task, "metric": score.metric} for score in artifact.scores]
            scores = [score.value for score in artifact.scores]
            return [Figure(names.EVALUATE_SCORE, value, it) for value, it in zip(scores, of, strict=True)], []
        case QuantizedModel():
            return [Figure(names.QUANTIZE_BYTES, artifact.num_weight_bytes, {"scheme": artifact.scheme})], []
        case SchemeSearch():
            tried = [{"scheme": attempt.scheme, "outcome": attempt.outcome} for attempt in artifact.attempts]
            return [Figure(names.QUANTIZE_SCHEME, 1, labels) for labels in tried], []
        case GateReport():
            return [], [Figure(names.GATE_VERDICTS, 1, {"outcome": artifact.outcome})]
        case _:
            return [], []


def _cleaned(dataset: Dataset) -> tuple[list[Figure], list[Figure]]:
    num_bytes = sum(source.num_bytes for source in dataset.sources)
    became = {"train": dataset.num_train, "heldout": dataset.num_heldout, "excluded": dataset.num_excluded}
    characters = {"in": dataset.num_characters_in, "kept": dataset.num_characters_kept}
    counts = [
        Figure(names.CLEAN_BYTES, num_bytes),
        *(Figure(names.CLEAN_DOCUMENTS, num, {"result": result}) for result, num in became.items()),
        *(Figure(names.CLEAN_CHARACTERS, num, {"result": result}) for result, num in characters.items()),
        *(Figure(names.CLEAN_EXCLUDED, num, {"reason": reason}) for reason, num in _reasons(dataset).items()),
    ]
    return [Figure(names.CLEAN_SPEED, num_bytes / dataset.took_s)] if dataset.took_s else [], counts


def _reasons(dataset: Dataset) -> dict[str, int]:
    common = dict(Counter(dataset.num_excluded_by_reason).most_common(MOST_REASONS))
    other = dataset.num_excluded - sum(common.values())
    return common | ({"other": other} if other else {})


def _trained(model: Checkpoint) -> list[Figure]:
    found = [
        Figure(names.TRAIN_ROLLBACKS, len(model.incidents)),
        Figure(names.TRAIN_RESUMES, len(model.resumed_at_steps)),
    ]
    if model.ledger is None:
        return found
    if model.ledger.mfu is not None:
        found.append(Figure(names.TRAIN_MFU, model.ledger.mfu))
    budget = (model.config.get("privacy") or {}).get("budget")
    if (privacy := model.ledger.privacy) is not None and budget is not None:
        found.append(Figure(names.TRAIN_BUDGET_SPENT, privacy.epsilon_of_data / budget["epsilon"]))
    return found
