"""Serve's log of a replica, held against libraries that configure logging anew."""

from __future__ import annotations

import logging
from logging.handlers import MemoryHandler


def hold() -> None:
    """Keep the file behind Serve's log of this replica, come what may; to be called before anything is imported late.

    `logging.config.dictConfig` closes all handlers there are (vLLM calls it as it is imported), and Serve's handler then has no
    file any more. A controller that comes back, as after the loss of a head, asks each replica for its log's path, takes the
    exception for a broken replica and replaces it: all engines at once, for as long as they load (Ray 2.60,
    `get_component_logger_file_path` and `DeploymentReplica.check_started`).
    """
    from ray.serve._private.constants import SERVE_LOGGER_NAME

    for handler in logging.getLogger(SERVE_LOGGER_NAME).handlers:
        if isinstance(handler, MemoryHandler):
            handler.close = handler.flush  # type: ignore[method-assign]
