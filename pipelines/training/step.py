"""One optimizer step over all ranks."""

from __future__ import annotations

from typing import Any, NamedTuple

from pipelines.training.batches import Batches
from pipelines.training.losses import Loss


class Step(NamedTuple):
    """What one optimizer step came to, over all ranks."""

    loss: float
    """Mean over its targets; nats."""
    num_tokens: int
    checksum: int
    """Of the sequences taken."""
    epsilon: float | None = None
    """Spent by now, of private runs."""


def optimizer_step(engine: Any, batches: Batches, step: int, rate: float, loss_function: Loss) -> Step:
    """One optimizer step over all ranks."""
    import torch
    import torch.distributed as dist

    # Dropout draws the same after a resume; nothing else in the loop is drawn.
    torch.manual_seed(batches.seed_of(step))
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    micro_batches = batches.of_step(step)
    counts = torch.tensor([(b.num_targets, b.num_tokens, b.checksum) for b in micro_batches]).sum(0).to(engine.device)
    dist.all_reduce(counts)
    copies = engine.world_size // batches.share.world_size  # ranks with the same data: they hold one model together
    num_targets, num_tokens, checksum = (counts // copies).tolist()
    # DeepSpeed divides by the ranks and the micro-batches, which hold different numbers of targets: undo that, so that
    # each target of the step weighs the same wherever it is computed.
    weight = num_targets / (batches.share.accumulation * batches.share.world_size)
    total = torch.zeros(1, device=engine.device)
    for batch in micro_batches:
        loss = loss_function(engine, batch.to(engine.device))
        engine.backward(loss / weight)
        engine.step()  # DeepSpeed updates the weights at the last micro-batch of the step
        total += loss.detach()
    dist.all_reduce(total)
    return Step(float(total) / copies / num_targets, num_tokens, checksum % 2**32)
