"""TLS between Ray's processes: Ray's own variables, looked at before a cluster starts with them.

RAY_USE_TLS=1, RAY_TLS_SERVER_CERT, RAY_TLS_SERVER_KEY and RAY_TLS_CA_CERT must be the same kind of truth in every process that
starts or joins the cluster. Ray takes what it finds: with a wrong file nodes wait for each other without a word.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cluster.certificates import Shown, check_pair
from cluster.config import variable
from cluster.errors import ConfigError

FILES = ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")


def is_on() -> bool:
    """As Ray reads it (_private/grpc_utils.py, version 2.60)."""
    return (variable("RAY_USE_TLS") or "0").lower() in ("1", "true")


def check(hosts: Iterable[str]) -> Shown | None:
    """What nodes will show to each other; None without TLS.

    Args:
        hosts: addresses of the nodes: who connects to one wants to see it in the certificate.

    Raises:
        ConfigError: a variable is missing or no absolute path, the files do not belong together, or an address is not named.
    """
    if not is_on():
        return None
    certificate, key, authority = (_file(name) for name in FILES)
    shown = check_pair(FILES[0], certificate, key, authority)
    if absent := sorted(set(hosts) - shown.names):
        remedy = "make one with these as subjectAltName, as IP:ADDRESS"
        raise ConfigError(f"{FILES[0]}: {certificate}", f"does not name {', '.join(absent)}", remedy)
    return shown


def _file(name: str) -> Path:
    given = variable(name)
    if given is None:
        raise ConfigError(
            "RAY_USE_TLS", f"is on, and {name} is not set", f"set {name} to a PEM file, or unset RAY_USE_TLS"
        )
    if not Path(given).is_absolute():
        raise ConfigError(name, f"{given} is no absolute path", "give one: nodes start in folders of their own")
    return Path(given)
