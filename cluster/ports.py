"""TCP ports of this machine."""

from __future__ import annotations

import socket
from contextlib import suppress

from cluster.errors import ResourceError


def listens(address: str) -> bool:
    """Whether someone accepts connections at `address` (host:port)."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except OSError:
        return False
    return True


def free_port(first: int, tries: int = 100) -> int:
    """The first free port from `first` on.

    Raises:
        ResourceError: none of `tries` is free.
    """
    for port in range(first, first + tries):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", port))
            return port
    raise ResourceError(f"ports {first} to {first + tries - 1}", "all are in use", "end the programs that hold them")
