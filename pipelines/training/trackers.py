"""Where a run's figures go beside the manifest: TensorBoard's event files always, MLflow and Weights & Biases when asked for.

They are written by the driver, so that no rank needs an address or a key. Keys come from the trackers' own variables and
files (WANDB_API_KEY, MLFLOW_TRACKING_USERNAME, ...), never from a recipe.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from cluster.errors import ConfigError, UserError
from cluster.storage import LocalStorage, Storage
from pipelines import progress
from pipelines.config import MlflowConfig, TrackersConfig, TrainConfig, WandbConfig

Values = dict[str, float]
"""Name -> figure of one step."""

UPLOAD_EVERY_S = 60.0
"""To a bucket, which cannot be added to: event files are sent whole."""

UPLOAD_SHARE = 0.01
"""Of the driver's time, at most: a file grows with the steps, and is then sent more seldom."""


class Tracker(Protocol):
    def log(self, step: int, values: Values) -> None: ...

    def close(self) -> None: ...


def check_trackers(config: TrackersConfig) -> None:
    """Raises ConfigError: a tracker is asked for whose package is not here, or its address holds a password."""
    if config.mlflow and "@" in config.mlflow.tracking_uri:
        raise ConfigError(  # not by pydantic, which would show the value
            "train.trackers.mlflow.tracking_uri",
            "holds a name or a password, and would be kept in the manifest",
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead",
        )
    for name in ("mlflow", "wandb"):
        if getattr(config, name) is not None and find_spec(name) is None:
            found = f"the package {name} is not installed here"
            raise ConfigError(f"train.trackers.{name}", found, f"pip install 'serinus[{name}]', or leave it out")


def open_trackers(config: TrainConfig, storage: Storage, key: str) -> list[Tracker]:
    """All that the recipe asks for, and event files under `runs/tensorboard/<key>`, which stay when the run has ended.

    Raises:
        ConfigError: a tracker cannot be reached, or does not let us in.
    """
    asked, settings = config.trackers, config.model_dump(mode="json")
    opened: list[Tracker] = []
    if mlflow := asked.mlflow:
        opened.append(_opened("mlflow", lambda: Mlflow(mlflow, key, settings)))
    if wandb := asked.wandb:
        opened.append(_opened("wandb", lambda: Wandb(wandb, key, settings)))
    return [EventFiles(storage, f"runs/tensorboard/{key}"), *opened]


def _opened(name: str, make: Callable[[], Tracker]) -> Tracker:
    try:
        return make()
    except Exception as error:  # whatever a tracker's client raises
        # Not the message, which may hold an address with a key.
        raise ConfigError(
            f"train.trackers.{name}",
            f"cannot be opened ({type(error).__name__})",
            "correct its address, its project and what it takes for a key, or leave it out",
        ) from None


class Guarded:
    """Trackers, of which one that fails is told of and left out: a run does not end with its tracker."""

    def __init__(self, trackers: list[Tracker]) -> None:
        self._trackers = trackers

    def log(self, step: int, values: Values) -> None:
        self._each(lambda tracker: tracker.log(step, values))

    def close(self) -> None:
        self._each(lambda tracker: tracker.close())

    def _each(self, act: Any) -> None:
        for tracker in tuple(self._trackers):
            try:
                act(tracker)
            except Exception as error:  # whatever a tracker's client raises
                if tracker not in self._trackers:
                    continue  # the thread that logs has told of it, while the driver closed it
                self._trackers.remove(tracker)
                # Not the message: a client may put an address with its key into it.
                progress.say("train", f"warning: {type(tracker).__name__} failed ({type(error).__name__}), left out")


class EventFiles:
    """TensorBoard's, by tensorboardX, which Ray Train brings along. Each start of a run writes one of its own beside those of
    the starts before; to a bucket it is sent while the run goes on."""

    def __init__(self, storage: Storage, folder: str) -> None:
        from tensorboardX import SummaryWriter

        self._storage, self._folder, self._temporary = storage, folder, None
        if isinstance(storage, LocalStorage):
            path = storage.path(folder)
        else:
            self._temporary = tempfile.TemporaryDirectory(prefix="serinus-events-")
            path = Path(self._temporary.name)
        self._path, self._writer = path, SummaryWriter(str(path))
        self._upload_at = time.monotonic() + UPLOAD_EVERY_S
        # The driver does not wait long for the thread that logs: of two uploads at once the older could come last.
        self._alone, self._is_closed = threading.Lock(), False

    def log(self, step: int, values: Values) -> None:
        with self._alone:
            if self._is_closed:
                return
            for name, value in values.items():
                self._writer.add_scalar(f"train/{name}", value, step)
            if self._temporary is not None and time.monotonic() >= self._upload_at:
                with suppress(UserError):  # the bucket is not reached: the next time, or the end, sends it all
                    self._upload()

    def close(self) -> None:
        with self._alone:
            self._is_closed = True
            self._writer.close()
            if self._temporary is not None:
                self._upload()
                self._temporary.cleanup()

    def _upload(self) -> None:
        from cluster.s3 import S3Storage

        assert isinstance(self._storage, S3Storage)
        begun = time.monotonic()
        self._upload_at = begun + UPLOAD_EVERY_S
        self._writer.flush()
        for path in self._path.iterdir():
            self._storage.send(path, f"{self._folder}/{path.name}")
        took_s = time.monotonic() - begun
        self._upload_at = begun + max(UPLOAD_EVERY_S, took_s / UPLOAD_SHARE)


class Mlflow:
    """A run of an experiment, under the model's key."""

    def __init__(self, config: MlflowConfig, key: str, settings: dict[str, Any]) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=config.tracking_uri)
        found = self._client.get_experiment_by_name(config.experiment)
        experiment = found.experiment_id if found else self._client.create_experiment(config.experiment)
        self._run = self._client.create_run(experiment, run_name=key).info.run_id
        for name, value in settings.items():
            self._client.log_param(self._run, name, str(value)[:500])  # what a parameter may hold

    def log(self, step: int, values: Values) -> None:
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        self._client.log_batch(self._run, [Metric(name, value, now_ms, step) for name, value in values.items()])

    def close(self) -> None:
        self._client.set_terminated(self._run)


class Wandb:
    """A run of a project, under the model's key; one that goes on is the same run."""

    def __init__(self, config: WandbConfig, key: str, settings: dict[str, Any]) -> None:
        import wandb

        self._run = wandb.init(
            project=config.project,
            entity=config.entity,
            id=key,
            name=key,
            resume="allow",
            mode=config.mode,
            config=settings,
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, step: int, values: Values) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()
