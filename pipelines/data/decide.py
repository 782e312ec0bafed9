"""The decisions that need all documents at once: duplicates and the held-out split. Pure, at the driver.

Thin: one row a document (about 300 bytes; its text stays on the workers) is held in the driver's memory, so some tens
of millions of documents are the limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from pipelines.config import DataConfig
from pipelines.data import dedup
from pipelines.data.document import DropReason

if TYPE_CHECKING:
    import pyarrow as pa

TRAIN, HELDOUT, EXCLUDED = "train", "heldout", "excluded"
SPLITS = (TRAIN, HELDOUT, EXCLUDED)


class Decision(NamedTuple):
    split: str
    reason: str = ""
    detail: str = ""


def decide(documents: pa.Table, config: DataConfig) -> list[Decision]:
    """One decision a document, which stand in document order: of duplicates the first is kept."""
    columns = {name: documents[name].to_pylist() for name in ("id", "reason", "detail", "fingerprint", "bands")}
    judged = zip(columns["reason"], columns["detail"], strict=True)
    decisions = [Decision(EXCLUDED, reason, detail) for reason, detail in judged]
    alive = [i for i, decision in enumerate(decisions) if not decision.reason]
    if config.dedup.exact:
        first = dedup.first_of_exact([columns["fingerprint"][i] for i in alive])
        alive = _drop_repeats(alive, first, decisions, "exact_duplicate", columns["id"])
    if config.dedup.near:
        first = dedup.first_of_near([columns["bands"][i] for i in alive])
        alive = _drop_repeats(alive, first, decisions, "near_duplicate", columns["id"])
    heldout = choose_heldout([columns["fingerprint"][i] for i in alive], config.heldout_fraction)
    for i, held in zip(alive, heldout, strict=True):
        decisions[i] = Decision(HELDOUT if held else TRAIN)
    return decisions


def _drop_repeats(
    alive: list[int], first: list[int], decisions: list[Decision], reason: DropReason, ids: Sequence[str]
) -> list[int]:
    """Exclude every document that is not the first of its group; the others."""
    for place, leader in enumerate(first):
        if leader != place:
            decisions[alive[place]] = Decision(EXCLUDED, reason, f"of {ids[alive[leader]]}")
    return [alive[place] for place, leader in enumerate(first) if leader == place]


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
