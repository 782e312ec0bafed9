"""What the model that training begins with says of every answer, computed once by all ranks together."""

from __future__ import annotations

import io
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.storage import Storage
from pipelines.training.batches import rows_batch
from pipelines.training.common import in_common
from pipelines.training.examples import Examples
from pipelines.training.losses import log_probabilities
from pipelines.training.parallel import replica


def reference(engine: Any, examples: Examples, storage: Storage, key: str, rows: int) -> NDArray[np.float32]:
    """Log-probability of each row's targets by the engine's model, or as found under the storage key `key`.

    Every rank must call it, before a checkpoint is read.

    Args:
        rows: at once on each rank.
    """
    import torch.distributed as dist

    blob = storage.read(key)
    if blob is not None:
        return np.asarray(np.load(io.BytesIO(blob.content)))
    scores = log_probabilities_of(engine, examples, rows)
    dist.barrier()  # all have looked for it
    in_common(partial(_keep, engine.global_rank, scores, storage, key))
    return scores


def _keep(rank: int, scores: NDArray[np.float32], storage: Storage, key: str) -> None:
    if rank > 0:
        return
    file = io.BytesIO()
    np.save(file, scores)
    storage.write(key, file.getvalue())


def log_probabilities_of(engine: Any, examples: Examples, rows: int) -> NDArray[np.float32]:
    """Of each row's targets, by the engine's model as it is now, in nats. Every rank must call it.

    Args:
        rows: at once on each rank.
    """
    import torch
    import torch.distributed as dist

    num, (own_copy, copies) = len(examples.ends), replica(engine)
    scores = torch.zeros(num, device=engine.device)
    engine.eval()
    with torch.no_grad():
        for first in range(0, num, rows * copies):
            start = first + rows * own_copy
            own = list(range(start, min(start + rows, num)))
            # A rank without rows takes part with the first one: at stage 3 all gather the weights together.
            inputs, labels, _ = rows_batch(examples, own or [0])
            inputs = {name: value.to(engine.device) for name, value in inputs.items()}
            found = log_probabilities(engine, inputs, labels.to(engine.device))
            scores[own] = found[: len(own)]
    engine.train()
    dist.all_reduce(scores)
    scores /= engine.world_size // copies  # ranks of one copy found the same
    return np.asarray(scores.cpu().numpy())
