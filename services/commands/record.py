"""What commands put on record, and what they read of it for several of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from cluster import config
from cluster.errors import InputError
from cluster.storage import Storage
from services.config import AuditKind
from services.contract import Traffic, read_traffic


def note(storage: Storage, name: str, kind: AuditKind, message: str, **about: str) -> None:
    """In the audit record; rollouts' decisions and moves of aliases get there by the controller."""
    from datetime import UTC, datetime

    from services import audit

    audit.note(storage, name, kind, message, who=config.user_name(), at=datetime.now(UTC), **about)


@contextmanager
def key_changes(storage: Storage, name: str) -> Iterator[None]:
    """Whatever the block does to the keys in force is on record afterwards, also where it breaks off later."""
    from services.serving import keys as api_keys

    before = {kind: api_keys.readable_keys(storage, name, kind)[0] for kind in api_keys.DOCUMENTS}
    try:
        yield
    finally:
        for kind, keys in before.items():
            if done := api_keys.changes(keys, api_keys.readable_keys(storage, name, kind)[0]):
                note(storage, name, "keys", done if kind == "users" else f"control API: {done}")


def traffic_of(storage: Storage, name: str) -> Traffic:
    """Who is stable and who canary.

    Raises:
        InputError: nothing is deployed.
    """
    found = read_traffic(storage, name)
    if found is None:
        raise InputError(f"model {name}", "nothing is deployed", "deploy it first: serinus deploy RECIPE")
    return found[0]


def print_traffic(storage: Storage, name: str, out: Console) -> None:
    """One line."""
    show_traffic(traffic_of(storage, name), out)


def show_traffic(traffic: Traffic, out: Console) -> None:
    """One line."""
    out.print(f"stable {traffic.stable}, canary {traffic.canary or 'none'} with {traffic.weight_percent:g} % of users")
