"""Serve's log of a replica outlives a library that configures logging."""

from __future__ import annotations

import logging
import logging.config
from collections.abc import Iterator
from logging.handlers import MemoryHandler
from pathlib import Path

import pytest

from services.serving import serve_log

SERVE_LOGGER_NAME = "ray.serve"
QUIET = {"version": 1, "disable_existing_loggers": False}


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    """The logger as Serve sets it up in a replica."""
    import ray.serve  # noqa: F401  # which sets its loggers up

    path, logger = tmp_path / "replica.log", logging.getLogger(SERVE_LOGGER_NAME)
    handler = MemoryHandler(10, target=logging.FileHandler(path))
    logger.addHandler(handler)
    yield path
    logger.removeHandler(handler)


def test_dict_config_takes_the_log_from_under_a_replica(log: Path) -> None:
    """What is mended; when this fails, `serve_log` has done its time."""
    from ray.serve._private.logging_utils import get_component_logger_file_path

    logging.config.dictConfig(QUIET)
    # Without Ray there is another one for a log that is whole.
    with pytest.raises(AttributeError, match="baseFilename"):
        get_component_logger_file_path()


def test_a_log_that_is_held_goes_on(log: Path) -> None:
    serve_log.hold()
    logging.getLogger(SERVE_LOGGER_NAME).error("before")
    logging.config.dictConfig(QUIET)
    (handler,) = [h for h in logging.getLogger(SERVE_LOGGER_NAME).handlers if isinstance(h, MemoryHandler)]
    assert isinstance(handler.target, logging.FileHandler)
    assert handler.target.baseFilename == str(log)
    logging.getLogger(SERVE_LOGGER_NAME).error("after")
    handler.flush()
    assert log.read_text().splitlines() == ["before", "after"]
