"""What all ranks find wrong while they start is an answer, not a failure that would start them again."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from cluster.errors import ConfigError
from pipelines.config import TrainConfig, ZeroConfig
from pipelines.training import loop
from pipelines.training.engine import own_fields
from pipelines.training.worker_plan import Plan


def test_a_model_that_cannot_be_trained_so_ends_the_run_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import ray.train

    def refuse(*_: object) -> None:
        raise ConfigError("train.lora.target_modules", "there are none", "name others")

    monkeypatch.setattr(ray.train, "get_context", lambda: SimpleNamespace(get_world_rank=lambda: 0))
    monkeypatch.setattr(loop, "heartbeat", lambda *_: nullcontext())
    monkeypatch.setattr(loop, "build_engine", refuse)
    (tmp_path / "base").mkdir()
    plan = Plan(TrainConfig().model_dump(), str(tmp_path), base="base", tokens={}, examples="", run="r", export="e")
    ended = loop.worker({"plan": plan._asdict(), "figures": None})
    assert isinstance(ended["refused"], ConfigError)
    assert ended["refused"].where == "train.lora.target_modules"


def test_what_deepspeed_refuses_is_said_in_one_line() -> None:
    with pytest.raises(ConfigError) as caught, own_fields():
        ZeroConfig.model_validate({"stage": 7})
    assert caught.value.where == "train.zero.extra"
    assert "refuses stage = 7 (Input should be 0, 1, 2 or 3)" in caught.value.found
    assert len(str(caught.value).splitlines()) == 2


def test_other_errors_pass() -> None:
    with pytest.raises(ValueError, match="other") as caught, own_fields():
        raise ValueError("other")
    assert not isinstance(caught.value, ValidationError)
