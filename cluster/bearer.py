"""The key of a service that a person names: it is in the environment, never in a file, and goes along as a header."""

from __future__ import annotations

from cluster.config import variable
from cluster.errors import ConfigError


def authorization(key_env: str | None, field: str, remedy: str = "set it, or leave it out") -> dict[str, str]:
    """The header with the key that the environment variable `key_env` holds; none without a name.

    Args:
        field: where the name was given, for errors. The key itself is in none.

    Raises:
        ConfigError: there is no such variable, or it holds what no header may.
    """
    if key_env is None:
        return {}
    if not (key := variable(key_env)):
        raise ConfigError(field, f"the environment has no variable {key_env}", remedy)
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(field, f"{key_env} holds characters that no header may have", "set it to the key alone")
    return {"authorization": f"Bearer {key}"}
