"""Storage: write, read, compare-and-set and delete, in a folder of the doctor's own."""

from __future__ import annotations

import socket
import uuid
from urllib.parse import urlsplit

from cluster.config import s3_endpoint
from cluster.doctor.finding import Finding, judged
from cluster.errors import Conflict, UserError
from cluster.storage import ABSENT, Storage, open_storage, remove_folder
from cluster.storage_config import StorageConfig

CONNECT_S = 3.0


def endpoint(url: str | None) -> Finding:
    """Whether somebody listens at the S3 endpoint; for AWS itself the probe below tells."""
    if url is None:
        return judged("s3 endpoint", "that of AWS", "")
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), timeout=CONNECT_S).close()
    except (OSError, ValueError, OverflowError) as error:
        return judged("s3 endpoint", f"{url} does not answer ({error})", "correct AWS_ENDPOINT_URL", failed=True)
    return judged("s3 endpoint", url, "")


def probe(storage: Storage) -> Finding:
    """A whole life of one small key."""
    folder = f".doctor-{uuid.uuid4().hex}"
    try:
        found = _lived(storage, f"{folder}/probe")
    except UserError as error:
        return Finding(check="storage", state="failed", found=f"{error.where}: {error.found}", remedy=error.remedy)
    except Exception as error:  # a diagnosis must not end because what it looks at is broken
        return judged("storage", f"{storage.uri}: {_first_line(error)}", "see the message", failed=True)
    finally:
        left = _removed(storage, folder)
    if found:
        remedy = "use a storage with conditional writes (If-Match): aliases and rollouts rest on them"
        return judged("storage", f"{storage.uri}: {found}", remedy, failed=True)
    remedy = f"remove {folder} by hand, and give yourself the right to delete"
    return judged("storage", f"{storage.uri}: {left or 'writes, reads, compares, deletes'}", remedy, warning=bool(left))


def checks(place: StorageConfig | None) -> list[Finding]:
    """Try the storage of a recipe."""
    if place is None:
        return []
    asks_s3 = urlsplit(place.uri).scheme == "s3"
    reached = [endpoint(s3_endpoint())] if asks_s3 else []
    if any(found.state == "failed" for found in reached):
        return reached
    try:
        storage = open_storage(place)
    except UserError as error:
        return [Finding(check="storage", state="failed", found=f"{error.where}: {error.found}", remedy=error.remedy)]
    return [*reached, probe(storage)]


def _lived(storage: Storage, key: str) -> str:
    """What went wrong; empty when nothing did."""
    first = storage.write(key, b"1", expect=ABSENT)
    blob = storage.read(key)
    if blob is None or blob.content != b"1":
        return "what was written does not read back"
    for expected in (ABSENT, "another version"):
        try:
            storage.write(key, b"2", expect=expected)
        except Conflict:
            continue
        return "a write that expects another version goes through"
    storage.write(key, b"2", expect=first)
    return ""


def _removed(storage: Storage, folder: str) -> str:
    try:
        remove_folder(storage, folder)
    except Exception as error:  # as above
        return f"cannot delete ({_first_line(error)})"
    return "does not delete" if any(storage.list(folder)) else ""


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
