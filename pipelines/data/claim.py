"""Several runs may make the same version at the same time: on S3 no lock keeps them apart.

That does no harm as long as they write the same bytes: the key is a hash of everything that decides over a version, Parquet is
written the same by the same libraries, and the manifest is written by compare-and-set (cluster.artifacts.commit). So a run first
claims the version for what it writes with. Another run with other libraries is refused while the first one is at work.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from cluster.artifacts import VERSION
from cluster.config import StrictModel
from cluster.errors import Conflict, ResourceError
from cluster.storage import ABSENT, Storage

GIVEN_UP_AFTER: Final = timedelta(days=1)
"""A run that has been at work for longer is taken for dead."""


class Claim(StrictModel):
    """What a version is, or was, written with."""

    written_with: str
    at: datetime
    is_done: bool = False


def written_with() -> str:
    """All that decides over a shard's bytes beside its content."""
    import pyarrow

    return f"serinus {VERSION}, pyarrow {pyarrow.__version__}"


def claim(storage: Storage, key: str, now: datetime | None = None) -> None:
    """Write the claim of a run that begins to write version `key`: also over one of a run that writes the same bytes, which may
    have ended, or be about to be taken for dead.

    Raises:
        ResourceError: a run with other libraries is at work.
    """
    mine, name = Claim(written_with=written_with(), at=now or datetime.now(UTC)), _name(key)
    while True:
        blob = storage.read(name)
        if blob is not None:
            found = Claim.model_validate_json(blob.content)
            same = found.written_with == mine.written_with
            if same and not found.is_done and mine.at <= found.at:
                return
            if not same and not found.is_done and mine.at - found.at < GIVEN_UP_AFTER:
                _refuse(storage, name, found)
        try:
            storage.write(name, mine.model_dump_json().encode(), expect=blob.version if blob else ABSENT)
            return
        except Conflict:  # another one was faster: see what it writes
            continue


def _refuse(storage: Storage, name: str, found: Claim) -> None:
    what = f"a run with {found.written_with} began to write this version at {found.at:%Y-%m-%d %H:%M} UTC"
    remedy = f"let it end; or, if it was killed, remove {name} and run the same command again"
    raise ResourceError(f"{storage.uri}/{name}", what, remedy)


def release(storage: Storage, key: str) -> None:
    """The version is made: whoever makes it again may do so with other libraries."""
    done = Claim(written_with=written_with(), at=datetime.now(UTC), is_done=True)
    storage.write(_name(key), done.model_dump_json().encode())


def _name(key: str) -> str:
    return f"runs/clean/{key}/claim.json"
