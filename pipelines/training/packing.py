"""Packed sequences of a token stream, and which of them a rank trains on at a step. Pure, so that a resumed run goes on
with the very data the interrupted one would have seen: the state is the step, nothing else.

All training documents, each closed by the end-of-text token, form one stream in the order of the dataset's shards.
Sequence `i` is `stream[i * length : (i + 1) * length]`; the last one is filled up with the stream's beginning, so no
token is lost and all sequences have one shape. Each epoch visits the sequences in its own order, drawn from (seed,
epoch). Which sequences a step takes depends on how many it takes, not on how many ranks share them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.integer[Any]]


def num_sequences(num_tokens: int, length: int) -> int:
    """How many sequences the stream has; the last one may be filled up."""
    return -(-num_tokens // length)


@lru_cache(maxsize=2)
def epoch_order(num: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of the sequences in that epoch. 8 bytes a sequence, kept for this epoch and the last."""
    return np.random.default_rng([seed, epoch]).permutation(num)


class Share(NamedTuple):
    """Which part of each optimizer step a rank computes."""

    rank: int
    world_size: int
    sequences: int
    """Per micro-batch."""
    accumulation: int = 1

    @property
    def sequences_per_step(self) -> int:
        return self.world_size * self.sequences * self.accumulation

    def places(self, step: int, micro: int) -> range:
        """Of the rank's micro-batch `micro` (0 <= micro < accumulation) of optimizer step `step` (from 0), counted over all
        steps and ranks."""
        first = step * self.sequences_per_step + (micro * self.world_size + self.rank) * self.sequences
        return range(first, first + self.sequences)


def shuffled(place: int, num: int, seed: int) -> int:
    """The sequence, of `num`, at that place: epoch after epoch, each in its own order."""
    return int(epoch_order(num, seed, place // num)[place % num])


def mixed(place: int, fraction: float) -> tuple[bool, int]:
    """Whether the second of two sources has that place, and the how manieth of that source's own it is (from 0).

    The second one's places are `fraction` of all, and as evenly spread as can be.
    """
    before, after = int(place * fraction), int((place + 1) * fraction)
    return (True, before) if after > before else (False, place - before)


def sequence_ids(share: Share, step: int, micro: int, num: int, seed: int) -> list[int]:
    """Sequences of the rank's micro-batch, where there is one source of `num`."""
    return [shuffled(place, num, seed) for place in share.places(step, micro)]


def positions(tokens: Tokens, end: int) -> NDArray[np.int64]:
    """Position of each token in its document, from 0. What goes on from the sequence before starts at 0 as well.

    Args:
        end: the token that closes a document.
    """
    index = np.arange(len(tokens))
    begins = np.concatenate([[True], tokens[:-1] == end])
    return index - np.maximum.accumulate(np.where(begins, index, 0))


def checksum(ids: Sequence[int]) -> int:
    """Of the sequences in `ids`, whatever their order: those of ranks add up to the step's, modulo 2**32.

    Each id is mixed by the finalizer of splitmix64 (Steele, Lea and Flood 2014, figure 16), so that sets of ids with one
    sum do not have one checksum.
    """
    return sum(_mixed(sequence) for sequence in ids) % 2**32


def _mixed(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) % 2**64
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
    return value ^ (value >> 31)


class Stream:
    """The shards' tokens as one array that is read in pieces.

    Args:
        shards: one array a shard, memory-mapped when they come from files.
    """

    def __init__(self, shards: Sequence[Tokens]) -> None:
        self._shards = [shard for shard in shards if len(shard)]
        self._ends = np.cumsum([len(shard) for shard in self._shards], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._shards else 0

    def sequence(self, index: int, length: int) -> NDArray[np.int64]:
        """Tokens of sequence `index`, always `length` of them."""
        start = index * length
        found = self.read(start, min(start + length, len(self)))
        while len(found) < length:
            found = np.concatenate([found, self.read(0, min(length - len(found), len(self)))])
        return found

    def after(self, token: int) -> NDArray[np.int64]:
        """The places right behind each `token`."""
        begins = self._ends - [len(shard) for shard in self._shards]
        found = [np.flatnonzero(s == token) + begin + 1 for s, begin in zip(self._shards, begins, strict=True)]
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """Tokens `start` to `stop`."""
        pieces, shard = [], int(np.searchsorted(self._ends, start, side="right"))
        while start < stop:
            base = int(self._ends[shard]) - len(self._shards[shard])
            until = min(stop, int(self._ends[shard]))
            pieces.append(np.asarray(self._shards[shard][start - base : until - base], dtype=np.int64))
            start, shard = until, shard + 1
        return np.concatenate(pieces)
