"""Lines of the log: for people, or as JSON for whoever collects them, each with what it is about.

Neither can be forged: what users, models and errors say begins no line and hides none. Keys and tokens are left out of both.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final

SECRET: Final = re.compile(
    r"(?i)\b(bearer\s+)[\w.~+/=-]{8,}"  # Authorization
    r"|\b(sk-)[\w-]{16,}"  # API keys, ours and others'
    r"|\b(AKIA|ASIA)[0-9A-Z]{16}\b"  # AWS
    r"|\b(hf_)\w{16,}"  # Hugging Face
    r"|(://[^/\s:@]*:)[^/\s]+(?=@)"  # a password in an address: Redis has no user there
)

_about: ContextVar[Mapping[str, str]] = ContextVar("serinus_log_about", default=MappingProxyType({}))


def bind(**about: str | None) -> None:
    """From here on lines of this task or thread are about that: run, model, revision, rollout, request_id. None takes one away."""
    held = {**_about.get(), **about}
    _about.set({name: value for name, value in held.items() if value is not None})


def printable(text: str) -> str:
    """`text` with control characters (terminal escapes, carriage returns, Unicode's line ends) spelled out; \\n and \\t stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode("ascii") for c in text)


def without_secrets(text: str) -> str:
    """`text`, with dots where it looks like a key, a token or a password."""
    return SECRET.sub(lambda found: next(filter(None, found.groups()), "") + "...", text)


class TextFormatter(logging.Formatter):
    """One line a record; further lines of a message and tracebacks are indented."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname).1s %(name)s: %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return printable(without_secrets(super().format(record))).replace("\n", "\n    ")


class JsonFormatter(logging.Formatter):
    """One JSON object a line, in ASCII: at (UTC), level, logger, message; what it is about; the traceback as `error`."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        said = {"at": at, "level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        error = {"error": self.formatException(record.exc_info)} if record.exc_info else {}
        fields = {**_about.get(), **said, **error}  # what is bound takes nothing's place
        return json.dumps({name: without_secrets(str(value)) for name, value in fields.items()})
