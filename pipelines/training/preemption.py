"""A node with ranks on it is taken away: all ranks leave together, at a step of which there is a checkpoint."""

from __future__ import annotations

from typing import Any


class Left(Exception):
    """The ranks have left; the run is to go on elsewhere.

    Args:
        step: optimizer steps done, and in the checkpoint.
    """

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


def must_leave(device: Any) -> bool:
    """Whether any rank has heard that a node of the group is being drained. Every rank must call it; all get the same answer.

    Ray Train tells each rank (its watcher asks Ray's head every RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S, 5 s), not all at the same
    moment. Its own call for an answer in common, `ray.train.get_preemption_info`, lets all ranks meet in one actor at each step;
    the ranks have a faster way to agree.
    """
    import torch
    import torch.distributed as dist
    from ray.train.v2._internal.execution.context import get_train_context

    told = get_train_context().preemption_context.preemption_info is not None
    heard = torch.tensor(int(told), device=device)
    dist.all_reduce(heard, dist.ReduceOp.MAX)
    return bool(heard.item())
