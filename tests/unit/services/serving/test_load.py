"""Loading in a task: what it fails of is told as an error of our own, so that nobody tries it for ever."""

from __future__ import annotations

from typing import Any

import pytest
import ray
from pydantic import ValidationError
from ray.exceptions import RayTaskError

from cluster.artifacts import Revision
from cluster.errors import ConfigError, SerinusError, StageFailed
from cluster.storage import LocalStorage
from services.config import RolloutConfig, ServingConfig
from services.serving import load
from services.serving.load import load_in_task

REVISION = Revision(key="1" * 16, name="m", revision="m-1", weights="w")


class _Task:
    def options(self, **_: object) -> _Task:
        return self

    def remote(self, *_: object) -> None:
        return None


def mistyped() -> Exception:
    try:
        RolloutConfig.model_validate({"stepz": 1})
    except ValidationError as error:
        return error
    raise AssertionError("it was valid")


@pytest.mark.parametrize(
    ("cause", "kind", "told"),
    [
        (
            ValueError("engine_kwargs: no such option"),
            StageFailed,
            "m-1 was not loaded: ValueError: engine_kwargs: no such",
        ),
        (mistyped(), StageFailed, "ValidationError: 1 validation error for RolloutConfig stepz Extra inputs"),
        (None, StageFailed, "m-1 was not loaded: KeyError: 'w'"),
        (ConfigError("recipe", "is wrong", "mend it"), ConfigError, "is wrong"),
    ],
)
def test_what_the_task_fails_of_is_an_error_of_our_own(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, cause: Any, kind: type[SerinusError], told: str
) -> None:
    def get(_: object) -> None:
        raise RayTaskError("_deploy", "Traceback (most recent call last):\n  deep inside\nKeyError: 'w'", cause)

    monkeypatch.setattr(load, "on_pool", lambda _: {})
    monkeypatch.setattr(ray, "remote", lambda **_: lambda _: _Task())
    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(kind, match=told):
        load_in_task(REVISION, ServingConfig(), storage)
