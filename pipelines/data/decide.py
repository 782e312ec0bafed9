"""The decisions that need all documents at once: duplicates and the held-out split. Pure, at the driver.

What the documents are compared by stays on the workers (pipelines/data/duplicates.py), which tell here only who is like whom.
Thin: one row a document (its texts and signatures are elsewhere) is held in the driver's memory, as Arrow's columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines.config import DataConfig
from pipelines.data import dedup
from pipelines.data.dedup import Int64s, Links
from pipelines.data.document import DropReason

if TYPE_CHECKING:
    import pyarrow as pa

TRAIN, HELDOUT, EXCLUDED = "train", "heldout", "excluded"
SPLITS = (TRAIN, HELDOUT, EXCLUDED)
FORGOTTEN: DropReason = "forgotten"


def decide(documents: pa.Table, config: DataConfig, links: Links, earlier: Mapping[int, str] | None = None) -> pa.Table:
    """`split`, `reason` and `detail` of each document, which stand in document order: of duplicates the first is kept.

    Args:
        links: pairs of documents that are alike, by their places in the table; of those without a reason alone.
        earlier: names of documents of earlier versions, which have numbers below zero in `links`.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pa.table({name: _large(documents[name]) for name in ("id", "reason", "detail")})
    found = _without_repeats(found, links.exact, "exact_duplicate", earlier or {})
    found = _without_repeats(found, links.near, "near_duplicate", earlier or {})
    alive = np.asarray(pc.indices_nonzero(pc.equal(found["reason"], "")))
    split = np.full(len(found), SPLITS.index(EXCLUDED), np.int8)
    split[alive] = choose_heldout(documents["fingerprint"].take(pa.array(alive)), config.heldout_fraction)
    names = pa.DictionaryArray.from_arrays(pa.array(split), list(SPLITS)).dictionary_decode()
    return pa.table({"split": names, "reason": found["reason"], "detail": found["detail"]})


def _without_repeats(found: pa.Table, pairs: Int64s, reason: DropReason, earlier: Mapping[int, str]) -> pa.Table:
    """Exclude every document that is not the first of its group.

    What is excluded as an exact duplicate links to others what its first one links to them as well: it does no harm here.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    first = dedup.first_of(len(found), pairs)
    is_repeat = (first != np.arange(len(first))) & np.asarray(pc.equal(found["reason"], ""))
    leaders = first[is_repeat]
    names = _large(found["id"].take(pa.array(np.maximum(leaders, 0))))
    if len(leaders) and leaders.min() < 0:
        others = pa.array([earlier[leader] for leader in leaders[leaders < 0].tolist()], pa.large_string())
        names = pc.replace_with_mask(names, pa.array(leaders < 0), others)
    detail = pc.binary_join_element_wise(pa.scalar("of", pa.large_string()), names, pa.scalar(" ", pa.large_string()))
    return _put(_put(found, "reason", is_repeat, pa.scalar(reason, pa.large_string())), "detail", is_repeat, detail)


def forgetting(decided: pa.Table, gone: Sequence[int]) -> pa.Table:
    """With these rows excluded because people want them out."""
    import pyarrow as pa

    mask = np.zeros(len(decided), np.bool_)
    mask[list(gone)] = True
    for name, value in (("split", EXCLUDED), ("reason", FORGOTTEN), ("detail", "")):
        decided = _put(decided, name, mask, pa.scalar(value, pa.large_string()))
    return decided


def _put(table: pa.Table, name: str, mask: NDArray[np.bool_], values: pa.Array | pa.Scalar) -> pa.Table:
    """With these values in the column where the mask is true."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = pc.replace_with_mask(_large(table[name]), pa.array(mask), values)
    return table.set_column(table.schema.get_field_index(name), name, column)


def _large(values: pa.ChunkedArray) -> pa.Array:
    """In one piece, which may have more than 2 GB of ids."""
    import pyarrow as pa

    return values.cast(pa.large_string()).combine_chunks()


def choose_heldout(fingerprints: pa.ChunkedArray, fraction: float) -> NDArray[np.bool_]:
    """True where the first 8 bytes of the text's fingerprint (of 16), read as a number in [0, 1), are below `fraction`: order does
    not matter.

    Of two or more documents at least one is held out (if any are asked for) and one is trained on.
    """
    keys = dedup.words_of(fingerprints)[0].view(">u8").reshape(-1, 2)
    shares = keys[:, 0] / 2.0**64
    chosen = shares < fraction
    if fraction > 0 and (chosen.all() or not chosen.any()) and len(np.unique(keys, axis=0)) > 1:
        return shares != shares.max() if chosen.any() else shares == shares.min()
    return chosen
