"""One optimizer step over all ranks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from pipelines.training.losses import Loss
from pipelines.training.packing import Share


class Step(NamedTuple):
    """What one optimizer step came to, over all ranks."""

    loss: float
    """Mean over its targets; nats."""
    num_tokens: int
    checksum: int
    """Of the sequences taken."""
    epsilon: float | None = None
    """Spent by now, of private runs."""
    reward: float | None = None
    """Mean over the answers, of grpo."""


class Given(Protocol):
    """This rank's share of the data: batches.py, grpo.py."""

    @property
    def share(self) -> Share: ...

    def seed_of(self, step: int) -> int:
        """For what a model draws in that step."""

    def of_step(self, step: int) -> Sequence[Any]:
        """The micro-batches of an optimizer step (from 0)."""


class Counts(NamedTuple):
    """Of an optimizer step, over all ranks."""

    num_targets: int
    num_tokens: int
    checksum: int


def prepared(engine: Any, batches: Given, step: int, rate: float) -> tuple[Sequence[Any], Counts]:
    """This rank's micro-batches of that step. From here on dropout draws that step's and the optimizer has its rate."""
    import torch
    import torch.distributed as dist

    # Dropout draws the same after a resume; nothing else in the loop is drawn.
    torch.manual_seed(batches.seed_of(step))
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    found = batches.of_step(step)
    counts = torch.tensor([(b.num_targets, b.num_tokens, b.checksum) for b in found]).sum(0).to(engine.device)
    dist.all_reduce(counts)
    num_targets, num_tokens, checksum = (counts // ranks_of_a_copy(engine, batches)).tolist()
    return found, Counts(num_targets, num_tokens, checksum % 2**32)


def ranks_of_a_copy(engine: Any, batches: Given) -> int:
    """They hold the model together (parallel.py, pipeline.py), and have the same data."""
    return int(engine.world_size // batches.share.world_size)


def optimizer_step(engine: Any, batches: Given, step: int, rate: float, loss_function: Loss) -> Step:
    """One optimizer step over all ranks."""
    import torch
    import torch.distributed as dist

    micro_batches, counts = prepared(engine, batches, step, rate)
    # DeepSpeed divides by the ranks and the micro-batches, which hold different numbers of targets: undo that, so that
    # each target of the step weighs the same wherever it is computed.
    weight = counts.num_targets / (batches.share.accumulation * batches.share.world_size)
    total = torch.zeros(1, device=engine.device)
    for batch in micro_batches:
        loss = loss_function(engine, batch.to(engine.device))
        engine.backward(loss / weight)
        engine.step()  # DeepSpeed updates the weights at the last micro-batch of the step
        total += loss.detach()
    dist.all_reduce(total)
    mean = float(total) / ranks_of_a_copy(engine, batches) / counts.num_targets
    return Step(mean, counts.num_tokens, counts.checksum)


class Clock:
    """Times optimizer steps; the first one of a worker, which allocates and compiles, is left out."""

    def __init__(self) -> None:
        self._steps, self._num_tokens, self._took_s, self._begun = -1, 0, 0.0, 0.0
        self.last_s = 0.0

    def __enter__(self) -> None:
        self._begun = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._steps += 1
        self.last_s = time.monotonic() - self._begun
        if self._steps > 0:
            self._took_s += self.last_s

    def count(self, num_tokens: int) -> None:
        """So many were in the step that was timed last."""
        self._num_tokens += num_tokens if self._steps > 0 else 0

    @property
    def tokens_per_s(self) -> float:
        return self._num_tokens / self._took_s if self._took_s else 0.0
