"""Scores of the model that training begins with: kept by rank 0, whose full disk all ranks hear of."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cluster.errors import ResourceError
from cluster.storage import LocalStorage
from pipelines.training import reference as module
from pipelines.training.reference import reference

KEY = "runs/train/k/reference.npy"
SCORES = np.array([-1.0, -2.0], np.float32)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the ranks tell each other: this one what it found, and the other one `told[0]`, where there is one."""
    import torch.distributed as dist

    said = list[Any]()

    def gather(errors: list[Any], own: Any) -> None:
        errors[:] = [own, *said[:1]]

    monkeypatch.setattr(dist, "barrier", lambda: None)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_gather_object", gather)
    monkeypatch.setattr(module, "log_probabilities_of", lambda *_: SCORES)
    return said


def asked(storage: LocalStorage, rank: int) -> Any:
    examples: Any = None
    return reference(SimpleNamespace(global_rank=rank), examples, storage, KEY, 8)


def test_rank_0_keeps_them(storage: LocalStorage, told: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(storage, rank=1) is SCORES
    assert storage.read(KEY) is None
    assert asked(storage, rank=0) is SCORES
    monkeypatch.setattr(module, "log_probabilities_of", None)
    assert asked(storage, rank=1).tolist() == [-1.0, -2.0]


def test_a_disk_that_is_full_for_rank_0_is_told_of_by_all(
    storage: LocalStorage, told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = ResourceError(storage.uri, "no space left on the disk", "free some space")

    def refuse(*_: object) -> None:
        raise full

    monkeypatch.setattr(storage, "write", refuse)
    with pytest.raises(ResourceError, match="no space left"):
        asked(storage, rank=0)
    told.append(full)
    with pytest.raises(ResourceError, match="no space left"):
        asked(storage, rank=1)
