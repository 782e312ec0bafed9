"""Duplicates looked at as pairs: which sources repeat which, and how much near duplicates have in common with what stays."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.data.report.excerpt import excerpt
from pipelines.data.report.figures import Change, Likeness, Overlap
from pipelines.data.report.rows import drawn
from pipelines.data.report.shards import MAX_CHARACTERS
from pipelines.data.trace import IN_VERSION

if TYPE_CHECKING:
    import pyarrow as pa

Int64s = NDArray[np.int64]

NUM_PAIRS = 200
NUM_SHOWN = 3
MOST_STEPS = 10
"""Two are the rule: an exact copy of a near duplicate."""
EARLIER = "an earlier version"
WORD = re.compile(r"\d+(?:[.,]\d+)*|\w+")


class Pair(NamedTuple):
    id: str
    """Of what was taken out."""
    stays: str
    left_out: str
    """Their texts."""


def overlaps(rows: pa.Table) -> tuple[Overlap, ...]:
    """By source of the duplicate and source of what stays in its place."""
    import pyarrow as pa
    import pyarrow.compute as pc

    copies, places = _followed(rows)
    folders = rows["folder"].combine_chunks()
    stays = pc.fill_null(folders.take(pa.array(places, mask=places < 0)), EARLIER)
    table = pa.table({"folder": folders.take(pa.array(copies)), "stays": stays})
    found = table.group_by(["folder", "stays"]).aggregate([([], "count_all")]).to_pylist()
    told = [Overlap(source=row["folder"], stays_in=row["stays"], num=row["count_all"]) for row in found]
    return tuple(sorted(told, key=lambda one: (-one.num, one.source, one.stays_in)))


def num_unfounded(rows: pa.Table) -> int:
    """Duplicates of a document that is neither kept nor forgotten, nor repeats others, nor one of an earlier version."""
    import pyarrow as pa
    import pyarrow.compute as pc

    copies, places = _followed(rows)
    fates = rows["fate"].combine_chunks().take(pa.array(places, mask=places < 0))
    of_earlier = pc.match_substring(rows["detail"].combine_chunks().take(pa.array(copies)), IN_VERSION)
    stays = pc.is_in(fates, pa.array(["kept", "repeated text", "forgotten"]))  # repeated text stands elsewhere
    return int(pc.sum(pc.invert(pc.or_(stays, pc.and_(pc.is_null(fates), of_earlier)))).as_py() or 0)


def _followed(rows: pa.Table) -> tuple[Int64s, Int64s]:
    """Rows of the duplicates, and of what stays in the place of each; below zero for a document that is not here.

    The copy of a document that is itself a near duplicate names that one: it is followed to its end.
    """
    import pyarrow.compute as pc

    copies = np.asarray(pc.indices_nonzero(pc.equal(rows["fate"], "duplicates"))).astype(np.int64)
    leads = np.arange(len(rows) + 1)
    leads[-1] = -1
    leads[copies] = _named(rows.take(copies), rows)
    places = leads[copies]
    for _ in range(MOST_STEPS):
        following = leads[places]
        if (following == places).all():
            break
        places = following
    return copies, places


def _named(copies: pa.Table, rows: pa.Table) -> Int64s:
    """Rows of the documents that the copies name; -1 where there is none such."""
    import pyarrow.compute as pc

    names = pc.utf8_slice_codeunits(copies["detail"], len("of "))
    return np.asarray(pc.fill_null(pc.index_in(names, rows["id"].combine_chunks()), -1)).astype(np.int64)


def drawn_pairs(rows: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Some near duplicates, and what stays in place of each; of texts that are short enough to be compared as a whole."""
    import pyarrow as pa
    import pyarrow.compute as pc

    short = pc.less_equal(rows["num_characters_in"], MAX_CHARACTERS)
    chosen = drawn(rows, pc.and_(pc.equal(rows["reason"], "near_duplicate"), short), NUM_PAIRS)
    places = _named(chosen, rows)
    chosen, stays = chosen.filter(pa.array(places >= 0)), rows.take(places[places >= 0])
    both = pc.and_(pc.less_equal(stays["num_characters"], MAX_CHARACTERS), stays["kept"])
    return chosen.filter(both), stays.filter(both)


def likeness(pairs: Sequence[Pair], ngram: int) -> Likeness:
    """Of texts that the rules have been applied to, both."""
    if not pairs:
        return Likeness()
    common = _jaccard(pairs, ngram)
    tenths = Counter(min(int(share * 10 + 1e-9), 9) for share in common)
    other = [(pair, places) for pair in pairs if (places := conflict(pair.stays, pair.left_out))]
    least = [pairs[i] for i in np.argsort(common, kind="stable")[:NUM_SHOWN].tolist()]
    return Likeness(
        num_pairs=len(pairs),
        num_by_tenth=tuple(tenths[tenth] for tenth in range(10)),
        num_other_numbers=len(other),
        unlike=tuple(_shown(pair, (0, 0)) for pair in least),
        other_numbers=tuple(_shown(pair, places) for pair, places in other[:NUM_SHOWN]),
    )


def _shown(pair: Pair, places: tuple[int, int]) -> Change:
    before, after = excerpt(pair.stays[places[0] :], pair.left_out[places[1] :])
    return Change(id=pair.id, before=before, after=after)


def conflict(one: str, other: str) -> tuple[int, int] | None:
    """Where the two first tell different numbers between the same words, three before and one behind: in each the first of
    these words. Words between which a text has several numbers say nothing."""
    ours, theirs = _numbers(one), _numbers(other)
    for words, found in ours.items():
        if words in theirs and found and (told := theirs[words]) and told[0] != found[0]:
            return found[1], told[1]
    return None


def _numbers(text: str) -> dict[tuple[str, ...], tuple[str, int] | None]:
    """By the words around a number that number, and where they begin; None where several numbers stand between the same."""
    words, found = list(WORD.finditer(text)), dict[tuple[str, ...], tuple[str, int] | None]()
    for i in range(3, len(words) - 1):
        if words[i].group()[0].isdecimal():
            around = (*(word.group().lower() for word in words[i - 3 : i]), words[i + 1].group().lower())
            found[around] = None if around in found else (words[i].group(), words[i - 3].start())
    return found


def _jaccard(pairs: Sequence[Pair], ngram: int) -> list[float]:
    """Of the sets of n-grams of words in lower case and without punctuation, as `dedup.band_keys` takes them."""
    import pyarrow as pa

    from pipelines.data.kernels.characters import buffers
    from pipelines.data.kernels.tokens import plain_words

    texts = pa.array([text for pair in pairs for text in (pair.stays, pair.left_out)], pa.large_string())
    words, bounds = plain_words(buffers(texts))
    runs = [words[start:end].tolist() for start, end in pairwise(bounds.tolist())]
    sets = [{tuple(run[i : i + ngram]) for i in range(max(len(run) - ngram + 1, 1))} for run in runs]
    return [len(a & b) / len(a | b) for a, b in zip(sets[::2], sets[1::2], strict=True)]
