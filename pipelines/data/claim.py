"""Several runs may make the same version at the same time: on S3 no lock keeps them apart.

That does no harm as long as they write the same bytes: the key is a hash of everything that decides over a version, Parquet is
written the same by the same libraries, and the manifest is written by compare-and-set (cluster.artifacts.commit). So a run first
claims the version for what it writes with. Another run with other libraries is refused while the first one is at work.
"""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from cluster.artifacts import VERSION
from cluster.config import StrictModel
from cluster.errors import Conflict, ResourceError
from cluster.storage import ABSENT, Storage

GIVEN_UP_AFTER: Final = timedelta(days=1)
"""A run that has been at work for longer is taken for dead."""
DECIDING_PACKAGES: Final = (
    "ftfy",
    "trafilatura",
    "justext",
    "lxml",
    "warcio",
    "pypdfium2",
    "py3langid",
    "python-stdnum",
    "regex",
    "numba",
    "numpy",
    "fasttext-numpy2-wheel",
    "kenlm",
    "sentencepiece",
)
"""With another version of one of them another text may come of a document, or something else become of it."""


class Claim(StrictModel):
    """What a version is, or was, written with."""

    written_with: str
    at: datetime
    is_done: bool = False


def written_with() -> str:
    """All that decides over a shard's bytes beside the version's key: what writes it, and what read and judged the texts in it."""
    import pyarrow

    unicode = f"Unicode {unicodedata.unidata_version}"
    packages = (f"{name} {_installed(name)}" for name in DECIDING_PACKAGES)
    return ", ".join((f"serinus {VERSION}", f"pyarrow {pyarrow.__version__}", unicode, *packages))


def _installed(name: str) -> str:
    """Its version. Some come with extras of the project alone."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


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
    mine = written_with().split(", ")
    theirs = [one for one in found.written_with.split(", ") if one not in mine] or [found.written_with]
    what = f"a run with {', '.join(theirs)} began to write this version at {found.at:%Y-%m-%d %H:%M} UTC"
    remedy = f"let it end; or, if it was killed, remove {name} and run the same command again"
    raise ResourceError(f"{storage.uri}/{name}", what, remedy)


def release(storage: Storage, key: str) -> None:
    """The version is made: whoever makes it again may do so with other libraries."""
    done = Claim(written_with=written_with(), at=datetime.now(UTC), is_done=True)
    storage.write(_name(key), done.model_dump_json().encode())


def _name(key: str) -> str:
    return f"runs/clean/{key}/claim.json"
