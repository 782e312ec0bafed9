"""One rank of a run that keeps what was learnt before: holding weights, measuring what is retained, keeping Fisher's diagonal."""

from __future__ import annotations

from typing import Any, NamedTuple

from cluster.artifacts import FileEntry, Retention
from cluster.node_cache import local_copy
from cluster.storage import Storage
from pipelines.config import TrainConfig
from pipelines.training import importance
from pipelines.training.batches import Batches, Packed
from pipelines.training.consolidation import Fisher, consolidate
from pipelines.training.importance import Earlier
from pipelines.training.packing import Share
from pipelines.training.parallel import replica
from pipelines.training.retention import Told, told
from pipelines.training.tokens import packed
from pipelines.training.worker_plan import Plan

MEASURED_SEQUENCES = 128
"""Of the held-out old documents, or all where there are fewer."""


class Old(NamedTuple):
    """What the rank has of old documents, where the run is to keep what was learnt from them."""

    fisher: Fisher | None
    rows: int
    """At once on a rank."""
    heldout: Packed | None
    before: Told | None
    """Of the model that training begins with."""

    def retention(self, engine: Any) -> Retention | None:
        """Every rank must call it, once the last step is done."""
        if self.heldout is None or self.before is None:
            return None
        after = told(engine, self.heldout, MEASURED_SEQUENCES, self.rows)
        return Retention(before=self.before.mean, after=after.mean, num_sequences=len(after.losses))

    def keep(self, engine: Any, storage: Storage, key: str) -> tuple[FileEntry, ...]:
        """Write Fisher's diagonal to the storage folder `key`. Every rank must call it."""
        return () if self.fisher is None else importance.keep(engine, self.fisher, storage, key)


def hold_old(engine: Any, config: TrainConfig, storage: Storage, plan: Plan) -> Old:
    """Must come before a checkpoint is read: the model is still the one that training begins with.

    Raises:
        InputError: the earlier run's diagonal is damaged, or of another model.
    """
    heldout = packed(config, storage, plan.tokens["held"]) if "held" in plan.tokens else None
    rows = config.sequences_per_worker
    before = None if heldout is None else told(engine, heldout, MEASURED_SEQUENCES, rows)
    fisher = _consolidated(engine, config, storage, plan) if config.consolidation else None
    return Old(fisher, rows, heldout, before)


def _consolidated(engine: Any, config: TrainConfig, storage: Storage, plan: Plan) -> Fisher:
    asked, earlier = config.consolidation, None
    assert asked is not None
    if asked.online is not None:
        assert plan.earlier is not None, "the driver has looked it up"
        earlier = Earlier(local_copy(storage, plan.earlier["folder"]), plan.earlier["num_files"], asked.online.decay)
    old = packed(config, storage, plan.tokens["consolidated"])
    (weight,) = asked.weights
    one_by_one = Batches(old, Share(*replica(engine), 1, config.accumulation), config.seed)
    return consolidate(engine, one_by_one, asked.num_sequences, weight, earlier)
