"""Elastic weight consolidation (Kirkpatrick et al. 2017, arXiv 1612.00796, equation 3): weights that mattered for old
documents are held near where they were.

Fisher's diagonal and the old weights are kept as the optimizer keeps its moments: each rank has those of the values that
it steps, so that they are shared out as ZeRO shares out the rest, 8 bytes a parameter over all ranks.

Along a chain of runs one diagonal sums up all documents so far (online EWC, Schwarz et al. 2018, arXiv 1805.06370, section
2.3): the earlier run's times a decay, plus that of the documents that it learnt. There is one anchor, the weights that the
run begins with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from pipelines.training import layout
from pipelines.training.batches import Batches
from pipelines.training.importance import Earlier
from pipelines.training.losses import next_token

Fisher = dict[Any, Any]
"""Master tensor -> as many values, 0 or more: how much each weight matters."""


def consolidate(engine: Any, old: Batches, num_sequences: int, weight: float, earlier: Earlier | None = None) -> Fisher:
    """Find out which weights matter for the old documents, and hold them from now on. Every rank must call it, before a
    checkpoint is read: the engine's weights are the old ones.

    Args:
        old: batches of the old documents, one sequence each.
        earlier: the diagonal of a run before, and its decay.

    Returns:
        The diagonal in force: what a later run of the chain begins with.

    Raises:
        InputError: the earlier diagonal is damaged, or of another model.
    """
    fisher = fisher_diagonal(engine, old, num_sequences)
    if earlier is not None:
        earlier.add_to(fisher, engine)
    hold(engine, fisher, weight)
    return fisher


def hold(engine: Any, fisher: Fisher, weight: float) -> None:
    """From now on, add the penalty's gradient to each step: weight x F x (weights - present weights).

    It is added behind the clipping of gradients, which stays that of the loss alone. The loss that is reported is without
    the penalty.
    """
    anchors = {master.tensor: master.tensor.detach().clone() for master in layout.masters(engine)}

    def pull(optimizer: Any, *_: Any) -> None:
        for tensor in _stepped(optimizer):
            tensor.grad.add_(fisher[tensor] * (tensor.detach() - anchors[tensor]), alpha=weight)

    layout.inner(engine).register_step_pre_hook(pull)


def fisher_diagonal(engine: Any, old: Batches, num_sequences: int) -> Fisher:
    """Mean over sequences of the squared gradient of a sequence's mean loss (the empirical Fisher).

    Ranks and micro-batches add their gradients before anybody could square them. So each sequence's loss is multiplied by
    1 or -1, drawn anew: the square of such a sum is on average the sum of the squares, since what two sequences have in
    common cancels out (as in Hutchinson 1990). With one sequence a step it is exact. Weights do not change.
    """
    import torch

    at_once = old.share.sequences_per_step
    num_steps = -(-num_sequences // at_once)
    total = {master.tensor: torch.zeros_like(master.tensor, requires_grad=False) for master in layout.masters(engine)}

    def square(optimizer: Any, *_: Any) -> None:
        for tensor in _stepped(optimizer):
            # DeepSpeed gives the mean over the step's sequences.
            total[tensor].addcmul_(tensor.grad, tensor.grad, value=at_once**2 / (num_steps * at_once))

    hook = layout.inner(engine).register_step_pre_hook(square)
    with _unmoved(engine):
        for step in range(num_steps):
            for batch, sign in zip(old.of_step(step), signs(old, step), strict=True):
                on_device = batch.to(engine.device)
                engine.backward(sign * next_token(engine, on_device) / max(1, batch.num_targets))
                engine.step()
    hook.remove()
    return total


def signs(old: Batches, step: int) -> list[float]:
    """1 or -1 for each of the rank's micro-batches of that step."""
    draw = np.random.default_rng([old.seed, step, old.share.rank])
    return [float(sign) for sign in draw.choice((-1.0, 1.0), size=old.share.accumulation)]


def _stepped(optimizer: Any) -> Iterator[Any]:
    """The master tensors that this call of the optimizer steps."""
    for group in optimizer.param_groups:
        yield from (tensor for tensor in group["params"] if tensor.grad is not None)


@contextmanager
def _unmoved(engine: Any) -> Iterator[None]:
    """Optimizer steps in here move no weights, clip no gradients and leave no moments behind."""
    outer, rates = engine.optimizer, [group["lr"] for group in engine.optimizer.param_groups]
    clipped_at, outer.clip_grad = outer.clip_grad, 0.0
    for group in outer.param_groups:
        group["lr"] = 0.0
    yield
    outer.clip_grad = clipped_at
    for group, rate in zip(outer.param_groups, rates, strict=True):
        group["lr"] = rate
    for state in layout.states(engine).values():
        for value in state.values():
            value.zero_()
