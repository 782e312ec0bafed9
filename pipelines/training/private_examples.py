"""The units of privacy, one by one: a document, a conversation or a pair; and those of them that a rank has in a step.

Nothing is packed: two documents in one sequence would share a gradient, and what one of them adds could not be cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cluster.errors import InputError
from pipelines.training.batches import Batch, Pairs, rows_batch
from pipelines.training.draws import poisson
from pipelines.training.examples import Examples as Rows
from pipelines.training.packing import Stream
from pipelines.training.privacy import Terms


class Units(Protocol):
    """What there is to train on, numbered from 0."""

    @property
    def num(self) -> int: ...

    @property
    def num_tokens(self) -> int:
        """Of all together, as they are trained on."""

    def batch(self, ids: list[int]) -> Batch:
        """Those, as tensors."""


class Documents(NamedTuple):
    """Each document by itself, its first `length` tokens; the rest of it is left out."""

    stream: Stream
    ends: NDArray[np.int64]
    """Where each one ends in the stream."""
    length: int

    @property
    def num(self) -> int:
        return len(self.ends)

    @property
    def num_tokens(self) -> int:
        return int(np.minimum(np.diff(self.ends, prepend=0), self.length).sum())

    def batch(self, ids: list[int]) -> Batch:
        import torch

        (number,) = ids
        start = int(self.ends[number - 1]) if number else 0
        tokens = torch.from_numpy(self.stream.read(start, min(int(self.ends[number]), start + self.length)))[None]
        return Batch({"input_ids": tokens}, tokens, ids, tokens.numel())


def documents(stream: Stream, end: int, num: int, length: int, where: str) -> Documents:
    """The stream's documents.

    Args:
        end: the token that closes a document.
        num: how many there ought to be.

    Raises:
        InputError: some hold that token inside, and would count as several.
    """
    ends = stream.after(end)
    if len(ends) != num:
        raise InputError(
            where,
            f"{len(ends) - num} of its {num:,} documents' tokens are end-of-text marks inside a text, so that a document"
            " would count as several",
            "exclude such documents (data.rules), or train without train.privacy",
        )
    return Documents(stream, ends, length)


class Conversations(NamedTuple):
    """Each line of an instruction file by itself."""

    rows: Rows

    @property
    def num(self) -> int:
        return len(self.rows.ends)

    @property
    def num_tokens(self) -> int:
        return len(self.rows.tokens)

    def batch(self, ids: list[int]) -> Batch:
        inputs, labels, num_tokens = rows_batch(self.rows, ids)
        return Batch(inputs, labels, ids, num_tokens)


class Preferences(NamedTuple):
    """Each pair by itself."""

    pairs: Pairs

    @property
    def num(self) -> int:
        return self.pairs.num

    @property
    def num_tokens(self) -> int:
        return len(self.pairs.examples.tokens)

    def batch(self, ids: list[int]) -> Batch:
        return self.pairs.batch(ids)


class Examples(NamedTuple):
    """This rank's examples of each step of a private run."""

    units: Units
    rank: int
    world_size: int
    terms: Terms
    secret: bytes
    seed: int
    """For what a model draws (dropout)."""

    @property
    def expected(self) -> float:
        """Examples of a step, over all ranks, on average."""
        return self.terms.sample_rate * self.units.num

    def seed_of(self, step: int, example: int) -> int:
        """The same on whichever rank: a step that is done again by others is to have the same gradients under the same noise."""
        return int(np.random.SeedSequence([self.seed, step, example]).generate_state(1)[0])

    def of_step(self, step: int) -> Iterator[Batch]:
        """One at a time. All ranks draw the same examples; each takes every `world_size`th of them."""
        drawn = poisson(self.secret, step, self.units.num, self.terms.sample_rate)
        return (self.units.batch([int(number)]) for number in drawn[self.rank :: self.world_size])
