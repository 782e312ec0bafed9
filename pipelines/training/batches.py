"""This rank's part of each optimizer step, as tensors; what is a target and what a token may look back at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.training.examples import Examples
from pipelines.training.packing import Share, Stream, checksum, mixed, num_sequences, positions, shuffled

NO_TARGET = -100
"""Label of a token that the loss leaves out; what torch's and transformers' losses take by default."""


class Batch(NamedTuple):
    """One micro-batch of one rank."""

    inputs: dict[str, Any]
    """What the model takes."""
    labels: Any
    """The tokens themselves, rows x length, NO_TARGET where the loss leaves one out; the first is never a target."""
    ids: list[int]
    """Of the sequences, or of the pairs."""
    num_tokens: int
    """Without padding."""
    reference: Any = None
    """Of pairs: log-probability of each row's targets by the model that training began with."""

    @property
    def num_targets(self) -> int:
        """What the loss is summed over: tokens, or pairs."""
        return len(self.ids) if self.reference is not None else int((self.labels[:, 1:] != NO_TARGET).sum())

    @property
    def checksum(self) -> int:
        return checksum(self.ids)

    def to(self, device: Any) -> Batch:
        """The same on that device."""
        return self._replace(
            inputs={name: value.to(device) for name, value in self.inputs.items()},
            labels=self.labels.to(device),
            reference=None if self.reference is None else self.reference.to(device),
        )


class Source(Protocol):
    """What there is to train on, numbered from 0."""

    @property
    def num(self) -> int:
        """Sequences, or pairs."""

    def at(self, place: int, seed: int) -> int:
        """Which of them comes at that place, counted over all steps and ranks."""

    def batch(self, ids: list[int]) -> Batch:
        """Those, as tensors."""


class Packed(NamedTuple):
    """A stream of documents in sequences.

    With `end` each document starts again at position 0. transformers reads that from `position_ids` where no attention
    mask and no cache is given, and lets a token look back to its own document's beginning and no further. A document's
    first token is no target then: the only thing before it is another document.
    """

    stream: Stream
    length: int
    end: int | None
    """The token that closes a document; None lets tokens look back into the documents before theirs."""

    @property
    def num(self) -> int:
        return num_sequences(len(self.stream), self.length)

    def at(self, place: int, seed: int) -> int:
        return shuffled(place, self.num, seed)

    def batch(self, ids: list[int]) -> Batch:
        return _packed_batch([self.stream.sequence(i, self.length) for i in ids], self.end, ids)


class Replay(NamedTuple):
    """New documents, and among them sequences of old ones, which are numbered behind the new."""

    new: Packed
    old: Packed
    fraction: float
    """Of the sequences: the old ones."""

    @property
    def num(self) -> int:
        return self.new.num + self.old.num

    def at(self, place: int, seed: int) -> int:
        is_old, place = mixed(place, self.fraction)
        return self.new.num + self.old.at(place, seed) if is_old else self.new.at(place, seed)

    def batch(self, ids: list[int]) -> Batch:
        return _packed_batch([self._sequence(i) for i in ids], self.new.end, ids)

    def _sequence(self, number: int) -> NDArray[np.int64]:
        if number < self.new.num:
            return self.new.stream.sequence(number, self.new.length)
        return self.old.stream.sequence(number - self.new.num, self.old.length)


def _packed_batch(sequences: list[NDArray[np.int64]], end: int | None, ids: list[int]) -> Batch:
    import torch

    tokens = torch.from_numpy(np.stack(sequences))
    if end is None:
        return Batch({"input_ids": tokens}, tokens, ids, tokens.numel())
    places = torch.from_numpy(np.stack([positions(sequence, end) for sequence in sequences]))
    labels = tokens.masked_fill(places == 0, NO_TARGET)
    return Batch({"input_ids": tokens, "position_ids": places}, labels, ids, tokens.numel())


class Conversations(NamedTuple):
    """Instructions in sequences: each whole, apart from the others in its sequence, which is filled up at its end."""

    examples: Examples
    bins: Sequence[Sequence[int]]
    """Rows of each sequence."""
    length: int

    @property
    def num(self) -> int:
        return len(self.bins)

    def at(self, place: int, seed: int) -> int:
        return shuffled(place, self.num, seed)

    def batch(self, ids: list[int]) -> Batch:
        rows = [[self.examples.row(row) for row in self.bins[i]] for i in ids]
        tokens = [np.concatenate([tokens for tokens, _ in parts]) for parts in rows]
        labels = [np.concatenate([_labels(*part) for part in parts]) for parts in rows]
        places = [np.concatenate([np.arange(len(tokens)) for tokens, _ in parts]) for parts in rows]
        # What fills a sequence up is a document of its own, so that nothing looks at it and it looks at nothing.
        places = [np.concatenate([p, np.arange(self.length - len(p))]) for p in places]
        inputs = {"input_ids": _rectangle(tokens, 0, self.length), "position_ids": _rectangle(places, 0, self.length)}
        return Batch(inputs, _rectangle(labels, NO_TARGET, self.length), ids, sum(map(len, tokens)))


class Pairs(NamedTuple):
    """Preferences: the chosen answers of a batch, then the rejected ones, one row each, filled up on the right."""

    examples: Examples
    reference: NDArray[np.float32]
    """Log-probability of each row's targets."""

    @property
    def num(self) -> int:
        return len(self.examples.ends) // 2

    def at(self, place: int, seed: int) -> int:
        return shuffled(place, self.num, seed)

    def batch(self, ids: list[int]) -> Batch:
        import torch

        rows = [2 * i for i in ids] + [2 * i + 1 for i in ids]
        inputs, labels, num_tokens = rows_batch(self.examples, rows)
        return Batch(inputs, labels, ids, num_tokens, torch.from_numpy(self.reference[rows]))


def rows_batch(examples: Examples, rows: Sequence[int]) -> tuple[dict[str, Any], Any, int]:
    """Inputs, labels and number of tokens of those rows. What fills them up stands on the right, where no token looks."""
    found = [examples.row(row) for row in rows]
    width = max(len(tokens) for tokens, _ in found)
    tokens = _rectangle([tokens for tokens, _ in found], 0, width)
    labels = _rectangle([_labels(*row) for row in found], NO_TARGET, width)
    return {"input_ids": tokens}, labels, sum(len(tokens) for tokens, _ in found)


def _labels(tokens: NDArray[np.int64], targets: NDArray[np.bool_]) -> NDArray[np.int64]:
    labels = np.where(targets, tokens, NO_TARGET)
    labels[0] = NO_TARGET
    return labels


def _rectangle(rows: Sequence[NDArray[np.int64]], filling: int, width: int) -> Any:
    import torch

    whole = np.full((len(rows), width), filling, dtype=np.int64)
    for number, row in enumerate(rows):
        whole[number, : len(row)] = row
    return torch.from_numpy(whole)


class Batches(NamedTuple):
    """This rank's share of the data."""

    source: Source
    share: Share
    seed: int

    def seed_of(self, step: int) -> int:
        """For what a model draws in that step (dropout); every rank its own."""
        return int(np.random.SeedSequence([self.seed, step, self.share.rank]).generate_state(1)[0])

    def of_step(self, step: int) -> list[Batch]:
        """The micro-batches of an optimizer step (from 0)."""
        micro_batches = range(self.share.accumulation)
        places = [self.share.places(step, micro) for micro in micro_batches]
        return [self.source.batch([self.source.at(place, self.seed) for place in some]) for some in places]
