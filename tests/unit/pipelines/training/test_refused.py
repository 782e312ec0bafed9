"""What all ranks find wrong while they start is an answer, not a failure that would start them again."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.errors import ConfigError, InputError, ResourceError
from pipelines.config import TrainConfig, ZeroConfig
from pipelines.training import loop
from pipelines.training.engine import own_fields
from pipelines.training.worker_plan import Plan


def started(monkeypatch: pytest.MonkeyPatch, storage: Path, tokens: str = "") -> dict[str, Any]:
    """What a rank comes to whose storage is that folder."""
    import ray.train

    monkeypatch.setattr(ray.train, "get_context", lambda: SimpleNamespace(get_world_rank=lambda: 0))
    monkeypatch.setattr(
        loop, "heartbeat", lambda *_: nullcontext(SimpleNamespace(at=str, count_forwards=lambda _: None))
    )
    index = {"dataset": {"folder": tokens}} if tokens else {}
    plan = Plan(TrainConfig().model_dump(), str(storage), base="base", tokens=index, examples="", run="r", export="e")
    return loop.worker({"plan": plan._asdict(), "figures": None})


def test_a_rank_whose_node_alone_lacks_the_model_ends_the_others_by_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no such folder"):
        started(monkeypatch, tmp_path / "not mounted here")


def test_a_node_that_alone_lacks_the_tokens_is_told_of_by_all_ranks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import torch.distributed as dist

    asked = list[object]()

    def gather(errors: list[object], own: object) -> None:
        asked.append(own)
        errors[:] = [None, ResourceError("node 2", "no space left on the disk", "free some")]

    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_gather_object", gather)
    monkeypatch.setattr(loop, "build_engine", lambda *_: SimpleNamespace(module=None, global_rank=0))
    for folder in ("base", "tokens"):
        (tmp_path / folder).mkdir()
    for tokens in ("tokens", "none"):
        assert started(monkeypatch, tmp_path, tokens)["refused"].where == "node 2"
    assert asked[0] is None
    assert isinstance(asked[1], InputError)


def test_a_model_that_cannot_be_trained_so_ends_the_run_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object) -> None:
        raise ConfigError("train.lora.target_modules", "there are none", "name others")

    monkeypatch.setattr(loop, "build_engine", refuse)
    (tmp_path / "base").mkdir()
    ended = started(monkeypatch, tmp_path)
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
