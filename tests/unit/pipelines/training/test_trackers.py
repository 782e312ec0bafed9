"""What trackers are told, and that they cannot hurt a run."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from cluster.artifacts import LossPoint
from cluster.errors import ConfigError
from cluster.storage import LocalStorage
from pipelines.config import TrackersConfig, TrainConfig
from pipelines.training import trackers
from pipelines.training.figures import Figures, figures_of
from pipelines.training.trackers import Guarded, Values, check_trackers, open_trackers


def test_event_files_hold_each_step_s_figures(storage: LocalStorage) -> None:
    (tracker,) = open_trackers(TrainConfig(), storage, "abc")
    for step in (1, 2):
        point = LossPoint(step=step, loss=3.0 / step, learning_rate=1e-4, num_tokens=64 * step, epsilon=0.5 * step)
        tracker.log(step, figures_of(point, 10.0))
    tracker.close()
    (key,) = storage.list("runs/tensorboard/abc")
    found = events(storage.read(key).content)  # type: ignore[union-attr]
    assert [found["train/loss", step] for step in (1, 2)] == [3.0, 1.5]
    assert found["train/epsilon", 2] == 1.0
    assert {name for name, _ in found} == {
        f"train/{name}" for name in ("loss", "learning_rate", "num_tokens", "tokens_per_s", "epsilon")
    }


def events(content: bytes) -> dict[tuple[str, int], float]:
    """Of TFRecord frames: length, its checksum, an event, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found, at = {}, 0
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        event = Event.FromString(content[at + 12 : at + 12 + length])
        found.update({(value.tag, event.step): value.simple_value for value in event.summary.value})
        at += 16 + length
    return found


class Failing:
    def __init__(self) -> None:
        self.calls = 0

    def log(self, step: int, values: Values) -> None:
        self.calls += 1
        raise ConnectionError("https://user:password@example")

    def close(self) -> None:
        raise AssertionError


def test_a_tracker_that_fails_is_left_out_and_its_message_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(trackers.progress, "say", lambda _, message: said.append(message))
    failing, guarded = Failing(), None
    guarded = Guarded([failing])
    for step in (1, 2):
        guarded.log(step, {"loss": 1.0})
    guarded.close()
    assert failing.calls == 1
    assert said == ["warning: Failing failed (ConnectionError), left out"]


def test_a_package_that_is_missing_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    check_trackers(TrackersConfig())
    asked: dict[str, Any] = {"mlflow": {"tracking_uri": "file:here"}}
    with pytest.raises(ConfigError, match=r"pip install .serinus\[mlflow\]"):
        check_trackers(TrackersConfig.model_validate(asked))


def test_a_tracker_that_cannot_be_opened_is_said_without_its_message(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*given: Any) -> None:
        raise ConnectionError("https://user:secret@example.org")

    monkeypatch.setattr(trackers, "Wandb", unreachable)
    with pytest.raises(ConfigError, match=r"cannot be opened \(ConnectionError\)") as refused:
        open_trackers(TrainConfig(trackers=TrackersConfig.model_validate({"wandb": {}})), storage, "abc")
    assert "secret" not in str(refused.value)
    assert not list(storage.list("runs"))


def test_a_password_in_an_address_is_refused_and_not_told() -> None:
    asked: dict[str, Any] = {"mlflow": {"tracking_uri": "https://me:secret@example.org"}}
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_PASSWORD") as refused:
        check_trackers(TrackersConfig.model_validate(asked))
    assert "secret" not in str(refused.value)


def test_figures_are_taken_once() -> None:
    figures = Figures()
    figures.update(1, {"loss": 2.0})
    figures.update(2, {"loss": 1.0})
    assert figures.take() == ([(1, {"loss": 2.0}), (2, {"loss": 1.0})], "")
    figures.tell("scoring 7 held-out pairs")
    assert figures.take() == ([], "scoring 7 held-out pairs")
