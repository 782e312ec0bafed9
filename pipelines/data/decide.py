"""The decisions that need all documents at once: duplicates, remnants, the held-out split. Pure, at the driver.

What the documents are compared by stays on the workers (pipelines/data/duplicates.py, repeats.py), which tell here only who is like
whom, and what is left of whom.
Thin: one row a document (its texts and signatures are elsewhere) is held in the driver's memory, as Arrow's columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.data import dedup
from pipelines.data.dedup import Int64s, Links
from pipelines.data.document import DropReason

if TYPE_CHECKING:
    import pyarrow as pa

    from pipelines.config import DataConfig

TRAIN, HELDOUT, EXCLUDED = "train", "heldout", "excluded"
SPLITS = (TRAIN, HELDOUT, EXCLUDED)
FORGOTTEN: DropReason = "forgotten"


class Repeats(NamedTuple):
    """What documents lose because it stood before (pipelines/data/repeats.py)."""

    rows: Int64s
    """Of those that lose something, ascending."""
    told: pa.Table
    """Of each of them: see `cutting.told_schema`."""

    def among(self, rows: Int64s) -> tuple[Int64s, pa.Table]:
        """Of these documents: which of them lose something, counted among them, and what is told of those."""
        import pyarrow as pa

        places = np.searchsorted(self.rows, rows)
        known = np.flatnonzero(np.append(self.rows, -1)[places] == rows)
        return known, self.told.take(pa.array(places[known]))


def without_duplicates(documents: pa.Table, links: Links, earlier: Mapping[int, str] | None = None) -> pa.Table:
    """`id`, `reason` and `detail` of each document, which stand in document order: of duplicates the first has no reason.

    Args:
        links: pairs of documents that are alike, by their places in the table; of those without a reason alone.
        earlier: names of documents of earlier versions, which have numbers below zero in `links`.
    """
    import pyarrow as pa

    found = pa.table({name: _large(documents[name]) for name in ("id", "reason", "detail")})
    found = _without_repeats(found, links.exact, "exact_duplicate", earlier or {})
    return _without_repeats(found, links.near, "near_duplicate", earlier or {})


def without_remnants(found: pa.Table, repeats: Repeats, min_words: int) -> pa.Table:
    """Exclude the documents of which fewer words are left than that, or none at all."""
    import pyarrow as pa

    asked = max(min_words, 1)
    few = np.flatnonzero(np.asarray(repeats.told["num_words"]) < asked)
    rows = (
        repeats.told.select(("num_words", "num_repeated_lines", "num_repeated_paragraphs"))
        .take(pa.array(few))
        .to_pylist()
    )
    details = [
        f"{row['num_words']} words left, at least {asked} asked; "
        f"{spelt(row['num_repeated_lines'], row['num_repeated_paragraphs'])} stood before"
        for row in rows
    ]
    reasons = ["repeated_lines" if row["num_repeated_lines"] else "repeated_paragraphs" for row in rows]
    mask = np.zeros(len(found), np.bool_)
    mask[repeats.rows[few]] = True
    for name, values in (("reason", reasons), ("detail", details)):
        found = _put(found, name, mask, pa.array(values, pa.large_string()))
    return found


def spelt(num_lines: int, num_paragraphs: int) -> str:
    """`3 lines and 1 paragraph`."""
    counts = ((num_lines, "line"), (num_paragraphs, "paragraph"))
    return " and ".join(f"{num} {what}{'s' * (num != 1)}" for num, what in counts if num)


def decide(documents: pa.Table, config: DataConfig, found: pa.Table) -> pa.Table:
    """`split`, `reason` and `detail` of each document, once all reasons are found."""
    import pyarrow as pa
    import pyarrow.compute as pc

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
