"""Work that each rank does by itself, and that all must have done before they go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from cluster.errors import UserError

T = TypeVar("T")


def in_common(work: Callable[[], T]) -> T:
    """What this rank's work gives, once all have done theirs: else the others would wait for one that has failed.

    Raises:
        UserError: of the first rank that raised one, on all of them.
    """
    import torch.distributed as dist

    found: T | None = None
    error: UserError | None = None
    try:
        found = work()
    except UserError as raised:
        error = raised
    errors: list[UserError | None] = [None] * dist.get_world_size()
    dist.all_gather_object(errors, error)
    if first := next(filter(None, errors), None):
        raise first
    return found  # type: ignore[return-value]
