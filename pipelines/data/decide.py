"""The decisions that need all documents at once: duplicates and the held-out split. Pure, at the driver.

What the documents are compared by stays on the workers (pipelines/data/duplicates.py), which tell here only who is like whom.
Thin: one row a document (its texts and signatures are elsewhere) is held in the driver's memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipelines.config import DataConfig
from pipelines.data import dedup
from pipelines.data.dedup import Int64s, Links
from pipelines.data.document import DropReason

if TYPE_CHECKING:
    import pyarrow as pa

TRAIN, HELDOUT, EXCLUDED = "train", "heldout", "excluded"
SPLITS = (TRAIN, HELDOUT, EXCLUDED)


class Decision(NamedTuple):
    split: str
    reason: str = ""
    detail: str = ""


def decide(
    documents: pa.Table, config: DataConfig, links: Links, earlier: Mapping[int, str] | None = None
) -> list[Decision]:
    """One decision a document, which stand in document order: of duplicates the first is kept.

    Args:
        links: pairs of documents that are alike, by their places in the table; of those without a reason alone.
        earlier: names of documents of earlier versions, which have numbers below zero in `links`.
    """
    judged = zip(documents["reason"].to_pylist(), documents["detail"].to_pylist(), strict=True)
    kept = {False: Decision(TRAIN), True: Decision(HELDOUT)}
    decisions = [Decision(EXCLUDED, reason, detail) if reason else kept[False] for reason, detail in judged]
    _drop_repeats(decisions, links.exact, "exact_duplicate", documents["id"], earlier or {})
    _drop_repeats(decisions, links.near, "near_duplicate", documents["id"], earlier or {})
    alive = [i for i, decision in enumerate(decisions) if not decision.reason]
    fingerprints = documents["fingerprint"].take(np.array(alive, np.int64)).to_pylist()
    heldout = choose_heldout(fingerprints, config.heldout_fraction)
    for i, held in zip(alive, heldout, strict=True):
        decisions[i] = kept[held]
    return decisions


def _drop_repeats(
    decisions: list[Decision], pairs: Int64s, reason: DropReason, ids: pa.ChunkedArray, earlier: Mapping[int, str]
) -> None:
    """Exclude every document that is not the first of its group.

    What is excluded as an exact duplicate links to others what its first one links to them as well: it does no harm here.
    """
    first = dedup.first_of(len(decisions), pairs)
    repeats = np.flatnonzero(first != np.arange(len(first)))
    leaders = first[repeats]
    names = ids.take(np.maximum(leaders, 0)).to_pylist()
    for i, leader, name in zip(repeats.tolist(), leaders.tolist(), names, strict=True):
        if not decisions[i].reason:
            decisions[i] = Decision(EXCLUDED, reason, f"of {name if leader >= 0 else earlier[leader]}")


def choose_heldout(fingerprints: Sequence[bytes], fraction: float) -> list[bool]:
    """True where the text's fingerprint, read as a number in [0, 1), is below `fraction`: order does not matter.

    Of two or more documents at least one is held out (if any are asked for) and one is trained on.
    """
    shares = [int.from_bytes(key, "big") / 2 ** (8 * len(key)) for key in fingerprints]
    chosen = [share < fraction for share in shares]
    if len(set(fingerprints)) > 1 and fraction > 0:
        if not any(chosen):
            chosen = [share == min(shares) for share in shares]
        elif all(chosen):
            chosen = [share != max(shares) for share in shares]
    return chosen
