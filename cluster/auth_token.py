"""The token by which clusters know those who may use them, where Ray looks for it."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from cluster.errors import ResourceError

AUTH_MODE = "token"
"""Of clusters of ours, where $RAY_AUTH_MODE says nothing else."""


def uses_token() -> bool:
    """Whether clusters ask for one here."""
    return os.environ.get("RAY_AUTH_MODE", AUTH_MODE).lower() == "token"


def token_file() -> Path:
    """Where the token is kept: $RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token").expanduser()


def token() -> str | None:
    """The token in Ray's own order: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token. Never print it."""
    if not uses_token():
        return None
    if given := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return given
    try:
        return token_file().read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def ensure_token() -> None:
    """Make the token that a new cluster asks for, readable by its owner only, unless there is one.

    Raises:
        ResourceError: its file cannot be written.
    """
    if not uses_token() or token():
        return
    file = token_file()
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = file.with_name(f"{file.name}.{os.getpid()}")
        draft.touch(mode=0o600)
        draft.write_text(secrets.token_hex(32), encoding="ascii")
        with suppress(FileExistsError):  # another process was faster: its token is as good
            os.link(draft, file)
        draft.unlink()
    except OSError as error:
        found = f"cannot be written: {error.strerror}"
        raise ResourceError(str(file), found, "give yourself write access, or set RAY_AUTH_TOKEN") from None
