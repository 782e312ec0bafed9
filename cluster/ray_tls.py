"""TLS between Ray's processes: Ray's own variables, looked at before a cluster starts with them.

RAY_USE_TLS=1, RAY_TLS_SERVER_CERT, RAY_TLS_SERVER_KEY and RAY_TLS_CA_CERT must be the same kind of truth in every process that
starts or joins the cluster. Ray takes what it finds: with a wrong file nodes wait for each other without a word.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable
from pathlib import Path

from cluster.certificates import Shown, check_pair
from cluster.config import variable
from cluster.errors import ConfigError

PROBE_TIMEOUT_S = 5.0
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


def mismatch(address: str) -> tuple[str, str] | None:
    """What keeps this process and the head at `address` (host:port) apart, and the remedy; None when that is not TLS.

    Ray's own clients wait for as long as they wait for a head that is away, and say nothing else.
    """
    shown = _shown_at(address, authority=None)
    if not is_on():
        wanted = "set RAY_USE_TLS=1 and the cluster's " + ", ".join(FILES)
        return ("speaks TLS, and RAY_USE_TLS is not on here", wanted) if shown is None else None
    if shown is not None:
        return f"speaks no TLS ({shown}), and RAY_USE_TLS is on here", "unset RAY_USE_TLS, or start the cluster with it"
    if refused := _shown_at(address, authority=_file("RAY_TLS_CA_CERT")):
        return f"shows a certificate that is not trusted here ({refused})", "use the cluster's RAY_TLS_CA_CERT"
    return None


def _shown_at(address: str, authority: Path | None) -> str | None:
    """Why no handshake came about, None when it did; any certificate is good without `authority`."""
    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED if authority else ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])  # gRPC hangs up without it
    try:
        if authority:
            context.load_verify_locations(authority)
        with socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_TIMEOUT_S) as plain:
            context.wrap_socket(plain).close()
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    except OSError as error:  # ssl.SSLError and timeouts among them
        return str(getattr(error, "reason", None) or error).replace("_", " ").lower()
    return None


def _file(name: str) -> Path:
    given = variable(name)
    if given is None:
        raise ConfigError(
            "RAY_USE_TLS", f"is on, and {name} is not set", f"set {name} to a PEM file, or unset RAY_USE_TLS"
        )
    if not Path(given).is_absolute():
        raise ConfigError(name, f"{given} is no absolute path", "give one: nodes start in folders of their own")
    return Path(given)
