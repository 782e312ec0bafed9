"""What trackers are told, and that they cannot hurt a run."""

from __future__ import annotations

import math
import struct
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import log_format
from cluster import telemetry as names
from cluster.artifacts import LossPoint
from cluster.errors import ConfigError, ResourceError
from cluster.storage import LocalStorage, open_storage
from pipelines.config import TrackersConfig, TrainConfig
from pipelines.measures import watched
from pipelines.training import figures as figures_module
from pipelines.training import trackers
from pipelines.training.figures import STARTING, Figures, figures_of
from pipelines.training.trackers import Guarded, Values, check_trackers, open_trackers
from tests.unit.pipelines.test_measures import Written


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


def test_in_a_bucket_they_are_there_while_the_run_goes_on_and_those_of_earlier_starts_stay(
    s3_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, folder = open_storage(s3_uri), "runs/tensorboard/abc"
    storage.write(f"{folder}/events.of.the.start.before", b"1 to 4")
    (tracker,) = open_trackers(TrainConfig(), storage, "abc")
    monkeypatch.setattr(trackers, "UPLOAD_EVERY_S", 0.0)
    monkeypatch.setattr(trackers, "UPLOAD_SHARE", math.inf)
    tracker.log(5, {"loss": 3.0})
    assert len(list(storage.list(folder))) == 1, "not before its time"
    tracker._upload_at, deadline, seen = 0.0, time.monotonic() + 10, set[int]()  # type: ignore[attr-defined]
    while 5 not in seen and time.monotonic() < deadline:  # what tensorboardX writes it has from a thread
        tracker.log(6, {"loss": 2.0})
        before, own = sorted(storage.list(folder))
        seen = {step for _, step in events(storage.read(own).content)}  # type: ignore[union-attr]
    assert 5 in seen
    assert before.endswith("before")
    tracker.log(7, {"loss": 1.0})
    tracker.close()
    assert sorted(storage.list(folder)) == [before, own]
    found = events(storage.read(own).content)  # type: ignore[union-attr]
    assert found == {("train/loss", 5): 3.0, ("train/loss", 6): 2.0, ("train/loss", 7): 1.0}


def test_a_bucket_that_is_not_reached_is_sent_all_at_the_next_time(
    s3_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage(s3_uri)
    (tracker,) = open_trackers(TrainConfig(), storage, "abc")
    monkeypatch.setattr(trackers, "UPLOAD_EVERY_S", 0.0)
    tracker._upload_at = 0.0  # type: ignore[attr-defined]

    def refused(path: Path, key: str) -> None:
        raise ResourceError(s3_uri, "does not answer", "try again")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "send", refused)
        tracker.log(1, {"loss": 3.0})
    assert not list(storage.list("runs"))
    tracker.log(2, {"loss": 2.0})
    tracker.close()
    (key,) = storage.list("runs/tensorboard/abc")
    assert {step for _, step in events(storage.read(key).content)} == {1, 2}  # type: ignore[union-attr]


def test_the_end_waits_for_what_is_sent_at_that_moment_and_sends_what_is_newer(
    s3_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, begun, go_on, ends = open_storage(s3_uri), threading.Event(), threading.Event(), list[str]()
    (tracker,) = open_trackers(TrainConfig(), storage, "abc")
    tracker._upload_at = 0.0  # type: ignore[attr-defined]
    send = storage.send  # type: ignore[attr-defined]

    def slow(path: Path, key: str) -> None:
        if not begun.is_set():
            begun.set()
            assert go_on.wait(10)
        send(path, key)
        ends.append(threading.current_thread().name)

    monkeypatch.setattr(storage, "send", slow)
    logs = threading.Thread(target=tracker.log, args=(1, {"loss": 3.0}), name="logs")
    closes = threading.Thread(target=tracker.close, name="closes")
    logs.start()
    assert begun.wait(10)
    alone, asks = tracker._alone, threading.Event()  # type: ignore[attr-defined]

    @contextmanager
    def asked() -> Iterator[None]:
        asks.set()
        with alone:
            yield

    monkeypatch.setattr(tracker, "_alone", asked())
    closes.start()
    assert asks.wait(10)
    monkeypatch.setattr(tracker, "_alone", alone)
    go_on.set()
    for thread in (logs, closes):
        thread.join(10)
    tracker.log(2, {"loss": 2.0})
    assert ends == ["logs", "closes"]
    (key,) = storage.list("runs/tensorboard/abc")
    assert {step for _, step in events(storage.read(key).content)} == {1}  # type: ignore[union-attr]


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


def test_one_that_fails_in_the_thread_that_logs_while_it_is_closed_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    monkeypatch.setattr(trackers.progress, "say", lambda _, message: said.append(message))

    class Refused(Failing):
        def close(self) -> None:
            guarded.log(2, {"loss": 1.0})
            raise ConnectionError

    guarded = Guarded([Refused()])
    guarded.close()
    assert said == ["warning: Refused failed (ConnectionError), left out"]


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


def test_after_workers_have_taken_the_run_up_again_each_step_says_how_often() -> None:
    figures = Figures()
    figures.resumed(2)
    figures.update(5, {"loss": 1.0})
    assert figures.take() == ([(5, {"loss": 1.0, "resumes": 2.0})], "")


def test_a_step_s_line_has_its_utilization_where_the_device_is_known() -> None:
    figures, point = Figures(), LossPoint(step=1, loss=3.0, learning_rate=1e-4, num_tokens=64)
    figures.update(1, figures_of(point, 1234.4))
    figures.used(0.4512 / 1234.4)
    figures.update(2, figures_of(point, 1234.4))
    taken, _ = figures.take()
    lines = [figures_module._line(values) for _, values in taken]
    assert lines == ["loss 3.000  1234 tokens/s", "loss 3.000  1234 tokens/s  MFU 45.1%"]
    assert "mfu" not in taken[0][1]
    assert taken[1][1]["mfu"] == pytest.approx(0.4512)


class Told:
    """In the place of Ray and of the actor: what each look finds, one after the other."""

    def __init__(self, *looks: tuple[list[tuple[int, Values]], str]) -> None:
        self._looks = list(looks)
        self.take = SimpleNamespace(remote=self._take)
        self.exceptions = SimpleNamespace(GetTimeoutError=TimeoutError, RayError=OSError)

    def _take(self) -> tuple[list[tuple[int, Values]], str]:
        return self._looks.pop(0) if self._looks else ([], "")

    def get(self, found: Any, timeout: float) -> Any:
        return found


def test_metrics_know_when_a_step_is_awaited_and_lines_know_their_run(monkeypatch: pytest.MonkeyPatch) -> None:
    step = {"loss": 2.0, "tokens_per_s": 9.0}
    looks = ([], STARTING), ([(1, step)], ""), ([], "scoring"), ([(2, step)], ""), ([(3, step)], "")
    told = Told(*looks)
    awaited, about = list[bool](), list[str | None]()

    class Seen(Written):
        def set(self, name: str, value: float, labels: Mapping[str, str]) -> None:
            super().set(name, value, labels)
            if name == names.TRAIN_STEP_AT:
                awaited.append(value > 0)

    class Bound:
        def log(self, step: int, values: Values) -> None:
            about.append(log_format._about.get().get("run"))

        def close(self) -> None: ...

    monkeypatch.setitem(sys.modules, "ray", told)
    monkeypatch.setattr(figures_module, "POLL_S", 0.001)
    seen = Seen()
    with about_run("r-1"), watched("m", "train", "trained", seen), figures_module.shown(told, 3, Guarded([Bound()])):
        deadline = time.monotonic() + 10
        while len(about) < 3 and time.monotonic() < deadline:
            time.sleep(0.001)
    # It begins to wait; after a step; not while answers are scored; after the next step; not after the last one; not when it ended.
    assert awaited == [True, True, False, True, False, False]
    assert about == ["r-1"] * 3
    assert seen.of(names.TRAIN_LOSS, model="m") == 2.0
    assert seen.of(names.STAGE_DONE, model="m", stage="train", unit="steps") == 3


class Late(Told):
    """Each answer is there only when it is asked for again."""

    def __init__(self, *looks: tuple[list[tuple[int, Values]], str]) -> None:
        super().__init__(*looks)
        self._asked: list[Any] = []

    def get(self, found: Any, timeout: float) -> Any:
        if found[0] and not any(found is one for one in self._asked):
            self._asked.append(found)
            raise TimeoutError
        return found


def test_an_answer_that_comes_late_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    step = {"loss": 2.0, "tokens_per_s": 9.0}
    late, logged = Late(([(1, step)], ""), ([(2, step), (3, step)], "")), list[int]()

    class Kept:
        def log(self, step: int, values: Values) -> None:
            logged.append(step)

        def close(self) -> None: ...

    monkeypatch.setitem(sys.modules, "ray", late)
    monkeypatch.setattr(figures_module, "POLL_S", 0.001)
    with figures_module.shown(late, 3, Guarded([Kept()])):
        pass  # ends while the first answer is still to come
    deadline = time.monotonic() + 10
    while len(logged) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert logged == [1, 2, 3]


@contextmanager
def about_run(run: str) -> Iterator[None]:
    log_format.bind(run=run)
    try:
        yield
    finally:
        log_format.bind(run=None)
