"""The shares that the recipe asks for, beside those that are there, and what would have to be added."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipelines.config.data import SharesConfig, TopicConfig
from pipelines.data.report.counts import shares
from pipelines.data.report.figures import Asked

if TYPE_CHECKING:
    import pyarrow as pa

MIN_WORDS = 2
"""Different ones of a topic, for a document to be of it."""
TOKEN = re.compile(r"\w+")


class Text(NamedTuple):
    """A kept document of the sample."""

    text: str
    num_characters: int
    """Of the whole."""


def asked(config: SharesConfig, rows: pa.Table, sample: Sequence[Text]) -> tuple[Asked, ...]:
    """All shares that are asked for. `rows`: of `rows.read_rows`; topics are told from the sample alone."""
    return (
        *_of_column("languages", config.languages, rows, "language"),
        *_of_column("sources", config.sources, rows, "folder"),
        *_of_column("domains", config.domains, rows, "host"),
        *_of_topics(config.topics, rows, sample),
        *_of_lengths(config.min_characters, rows),
    )


def _total(rows: pa.Table) -> int:
    import pyarrow.compute as pc

    return int(pc.sum(rows.filter(rows["kept"])["num_characters"]).as_py() or 0)


def _of_column(dimension: str, wanted: Mapping[str, float], rows: pa.Table, column: str) -> Iterator[Asked]:
    if not wanted:
        return
    have = {share.name: share.num_characters_kept for share in shares(rows, column)}
    total = _total(rows)
    lacking = missing(wanted, {name: have.get(name, 0) for name in wanted}, total)
    for name, share in wanted.items():
        found = have.get(name, 0) / max(total, 1)
        yield _asked(dimension, name, share, (found, found, found), lacking[name])


def _of_topics(wanted: Mapping[str, TopicConfig], rows: pa.Table, sample: Sequence[Text]) -> Iterator[Asked]:
    if not wanted:
        return
    found, is_all = _topic_shares(wanted, sample), len(sample) == rows["kept"].combine_chunks().true_count
    total = _total(rows)
    have = {name: round(share[0] * total) for name, share in found.items()}
    lacking = missing({name: topic.share for name, topic in wanted.items()}, have, total)
    for name, topic in wanted.items():
        value, low, high = found[name]
        yield _asked("topics", name, topic.share, (value,) * 3 if is_all else (value, low, high), lacking[name])


def _of_lengths(wanted: Mapping[int, float], rows: pa.Table) -> Iterator[Asked]:
    import pyarrow.compute as pc

    total = _total(rows)
    for least, share in sorted(wanted.items()):
        have = _total(rows.filter(pc.greater_equal(rows["num_characters"], least)))
        found = have / max(total, 1)
        lacking = missing({"": share}, {"": have}, total)[""]
        yield _asked("lengths", f"at least {least:,} characters", share, (found, found, found), lacking)


def _asked(dimension: str, name: str, share: float, found: tuple[float, float, float], lacking: int | None) -> Asked:
    value, low, high = found
    return Asked(
        dimension=dimension, name=name, asked=share, found=value, low=low, high=high, num_characters_missing=lacking
    )


def missing(wanted: Mapping[str, float], have: Mapping[str, int], total: int) -> dict[str, int | None]:
    """Characters to be added of each, the fewest with which all hold at once; None where adding does not help.

    Of a whole of T' characters each i that is short gets up to a_i T', so T' = (T - sum of h_i) / (1 - sum of a_i) over those
    that are short. What is added makes others short: they join, until none does.
    """
    whole, short = float(total), set[str]()
    while more := {name for name, share in wanted.items() if share * whole > have[name] + 1e-6} - short:
        short |= more
        room, besides = 1 - sum(wanted[name] for name in short), total - sum(have[name] for name in short)
        if room > 1e-9:
            whole = besides / room
        elif besides <= 0:  # nothing else is there, and nothing else is asked for
            whole = max((have[name] / wanted[name] for name in short if wanted[name]), default=0.0)
            break
        else:
            return {name: None if name in short else 0 for name in wanted}
    return {name: max(0, round(share * whole) - have[name]) for name, share in wanted.items()}


def _topic_shares(wanted: Mapping[str, TopicConfig], sample: Sequence[Text]) -> dict[str, tuple[float, float, float]]:
    """By topic the share of the sample's characters, and its 95 % interval: a ratio's (Cochran 1977, section 2.11)."""
    vocabulary = {name: {word.lower() for word in topic.words} for name, topic in wanted.items()}
    of = np.array([_topic_of(text.text, vocabulary) for text in sample], object)
    sizes = np.array([text.num_characters for text in sample], np.float64)
    total, num = max(float(sizes.sum()), 1.0), max(len(sample), 1)
    found = {}
    for name in wanted:
        member = (of == name).astype(np.float64) if len(of) else np.zeros(0)
        share = float((sizes * member).sum()) / total
        half = 1.96 * float(np.sqrt(((sizes * (member - share)) ** 2).sum())) / total
        least = 3 / num if not member.any() else 0.0  # of what was not met in n documents there may be 3 / n
        found[name] = share, max(share - half, 0.0), min(share + max(half, least), 1.0)
    return found


def _topic_of(text: str, vocabulary: Mapping[str, set[str]]) -> str:
    """The topic of most words; of equals the one named first; empty for none."""
    words = set(TOKEN.findall(text.lower()))
    counts = {name: len(words & topic) for name, topic in vocabulary.items()}
    best = max(counts, key=lambda name: counts[name], default="")
    return best if best and counts[best] >= MIN_WORDS else ""
