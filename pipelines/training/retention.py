"""How well a model predicts sequences that it is not trained on: what it still knows, and what it has learnt.

A score is a perplexity. What is retained of it is old / new, as the gate counts recovery (docs/evaluation.md).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from pipelines.training.batches import NO_TARGET, Source
from pipelines.training.losses import log_probabilities
from pipelines.training.parallel import replica


class Told(NamedTuple):
    """Of each sequence: its loss, in nats, summed over its targets, and their number."""

    losses: list[float]
    num_targets: list[int]

    @property
    def mean(self) -> float:
        """Nats a target."""
        return sum(self.losses) / sum(self.num_targets)


def told(engine: Any, source: Source, num: int, rows: int) -> Told:
    """Of `num` sequences of `source` (all, where it has fewer), evenly spread over it. Every rank must call it.

    Args:
        rows: at once on each rank.
    """
    import torch
    import torch.distributed as dist

    num = min(num, source.num)
    ids, (own_copy, copies) = [place * source.num // num for place in range(num)], replica(engine)
    found = torch.zeros(2, num, dtype=torch.float64)
    was_training = engine.module.training
    engine.eval()
    with torch.no_grad():
        for first in range(0, num, rows * copies):
            start = first + rows * own_copy
            own = list(range(start, min(start + rows, num)))
            # A rank without sequences takes part with the first one: at stage 3 all gather the weights together.
            batch = source.batch([ids[place] for place in own or [0]]).to(engine.device)
            likely = log_probabilities(engine, batch.inputs, batch.labels)
            if own:
                found[:, own] = torch.stack([-likely.cpu(), (batch.labels[:, 1:] != NO_TARGET).sum(1).cpu()]).double()
    engine.train(was_training)
    found = found.to(engine.device)
    dist.all_reduce(found)
    found /= engine.world_size // copies  # ranks of one copy found the same
    losses, targets = found.cpu().tolist()
    return Told(losses, [int(num) for num in targets])
