"""This rank's part of each optimizer step, as tensors; what is a target and what a token may look back at."""

from __future__ import annotations

from typing import Any, NamedTuple

from cluster.storage import Storage
from pipelines.config import TrainConfig
from pipelines.training.packing import Share, Stream, checksum, num_sequences, positions, sequence_ids
from pipelines.training.tokens import TokenIndex, open_stream

NO_TARGET = -100
"""Label of a token that the loss leaves out; what torch's and transformers' losses take by default."""


class Batch(NamedTuple):
    """One micro-batch of one rank."""

    inputs: dict[str, Any]
    """What the model takes."""
    labels: Any
    """The tokens themselves, sequences x length, NO_TARGET where the loss leaves one out; the first is never a target."""
    ids: list[int]
    """Of the sequences."""

    @property
    def num_targets(self) -> int:
        return int((self.labels[:, 1:] != NO_TARGET).sum())

    def to(self, device: Any) -> Batch:
        """The same on that device."""
        return Batch({name: value.to(device) for name, value in self.inputs.items()}, self.labels.to(device), self.ids)

    @property
    def checksum(self) -> int:
        return checksum(self.ids)


class Batches(NamedTuple):
    """This rank's share of the data."""

    stream: Stream
    share: Share
    length: int
    num: int
    """Sequences of an epoch."""
    seed: int
    end: int | None
    """The token that closes a document; None lets tokens look back into the documents before theirs."""

    def seed_of(self, step: int) -> int:
        """For what a model draws in that step (dropout); every rank its own."""
        import numpy as np

        return int(np.random.SeedSequence([self.seed, step, self.share.rank]).generate_state(1)[0])

    def of_step(self, step: int) -> list[Batch]:
        """The micro-batches of an optimizer step (from 0)."""
        return [self.micro_batch(step, micro) for micro in range(self.share.accumulation)]

    def micro_batch(self, step: int, micro: int) -> Batch:
        ids = sequence_ids(self.share, step, micro, self.num, self.seed)
        return make_batch(self.stream, ids, self.length, self.end)


def make_batch(stream: Stream, ids: list[int], length: int, end: int | None) -> Batch:
    """The sequences `ids` as tensors.

    With `end` each document starts again at position 0. transformers reads that from `position_ids` where no attention
    mask and no cache is given, and lets a token look back to its own document's beginning and no further. A document's
    first token is no target then: the only thing before it is another document.
    """
    import numpy as np
    import torch

    sequences = np.stack([stream.sequence(i, length) for i in ids])
    tokens = torch.from_numpy(sequences)
    if end is None:
        return Batch({"input_ids": tokens}, tokens, ids)
    places = torch.from_numpy(np.stack([positions(sequence, end) for sequence in sequences]))
    return Batch({"input_ids": tokens, "position_ids": places}, tokens.masked_fill(places == 0, NO_TARGET), ids)


def open_batches(config: TrainConfig, storage: Storage, index: TokenIndex, rank: int, world_size: int) -> Batches:
    """The share of `rank` among `world_size`."""
    stream = open_stream(storage, index)
    share = Share(rank, world_size, config.sequences_per_worker, config.accumulation)
    num = num_sequences(len(stream), config.sequence_length)
    end = None if config.attend_across_documents else index.end
    return Batches(stream, share, config.sequence_length, num, config.seed, end)
