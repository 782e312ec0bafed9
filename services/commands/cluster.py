"""The cluster that users reach, as commands join it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cluster.errors import ClusterError


@contextmanager
def in_public_cluster() -> Iterator[None]:
    """Join the cluster that users reach; a private one would vanish with this command."""
    from cluster import session

    if session.public_address() is None:
        remedy = "start one: serinus up; then serinus deploy RECIPE"
        raise ClusterError("cluster", "none is up that could serve", remedy)
    with session.joined():
        yield
