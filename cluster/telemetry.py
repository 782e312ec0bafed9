"""The log format, said once."""

from __future__ import annotations

import logging
import sys


def logger(name: str) -> logging.Logger:
    """A logger below `serinus` that writes to standard error once `configure` was called."""
    return logging.getLogger(f"serinus.{name}")


def configure(verbose: bool = False) -> None:
    """Log serinus's own lines to standard error with time and origin."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(name)s: %(message)s", "%H:%M:%S"))
    root = logging.getLogger("serinus")
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    root.propagate = False
