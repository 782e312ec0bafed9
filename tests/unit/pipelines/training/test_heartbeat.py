"""Phases that a rank tells of."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import pytest

from pipelines.training import checkpoint, heartbeat
from pipelines.training.hang import TRAINING


def test_a_way_back_to_a_checkpoint_is_not_held_to_the_time_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rank reads for itself, and begins no collective meanwhile."""
    monkeypatch.setattr(heartbeat, "whereabouts", lambda: ("node", "10.0.0.1"))
    own, phases = heartbeat.Heartbeat(), list[str]()
    own.at(TRAINING, 5)
    monkeypatch.setattr(checkpoint, "read", lambda engine, folder: phases.append(own.beat().phase))
    kept = checkpoint.Reported(partial(own.during, "going back to a checkpoint"))
    kept._found = [SimpleNamespace(checkpoint=SimpleNamespace(as_directory=lambda: nullcontext("/none")))]
    kept.read(None, 0)
    assert phases == ["going back to a checkpoint"]
    assert own.beat().phase == TRAINING
