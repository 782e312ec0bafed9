"""Phases that a rank tells of."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import pytest
from pyarrow.fs import LocalFileSystem

from pipelines.training import checkpoint, heartbeat
from pipelines.training.hang import TRAINING


def test_a_way_back_to_a_checkpoint_is_not_held_to_the_time_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rank reads for itself, and begins no collective meanwhile."""
    monkeypatch.setattr(heartbeat, "whereabouts", lambda: ("node", "10.0.0.1"))
    own, phases = heartbeat.Heartbeat(), list[str]()
    own.at(TRAINING, 5)
    monkeypatch.setattr(checkpoint, "read", lambda engine, folder, name: phases.append(own.beat().phase))
    kept = checkpoint.Reported(partial(own.during, "going back to a checkpoint"))
    found = SimpleNamespace(filesystem=LocalFileSystem(), path="/none", as_directory=lambda: nullcontext("/none"))
    kept._found = [SimpleNamespace(checkpoint=found)]
    kept.read(None, 0)
    assert phases == ["going back to a checkpoint"]
    assert own.beat().phase == TRAINING
