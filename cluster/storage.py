"""Where artifacts live: a folder or an S3 bucket behind one narrow protocol.

Small records (manifests, aliases, rollout status) go through `read` and `write`, which is a compare-and-set when `expect`
is given. Bulk data goes through `filesystem` (pyarrow.fs, for Parquet) or whole folders (`publish_folder`, and `local_copy` in
node_cache.py). Who may work where, alone: lease.py.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol
from urllib.parse import urlsplit

from cluster.config import home, s3_endpoint
from cluster.errors import Conflict, InputError, ResourceError
from cluster.storage_config import StorageConfig, read_location

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

ABSENT: Final = ""
"""`expect=ABSENT`: write only if nothing is there."""
S3_ATTEMPTS: Final = 10
"""Of boto3, for a call that fails or is not answered; pyarrow's are in cluster/patient_s3.py."""
S3_SILENCE_S: Final = 20.0
"""After so long without a byte boto3 tries again; its own number is 60."""
REFUSALS: Final = (
    "NoSuchBucket",
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "403",  # of a HEAD, whose answer has no body that tells why
)
SERVER_ERRORS: Final = range(500, 600)
"""Of HTTP, which boto3 has tried again in vain."""
STAGING: Final = ".tmp-"
"""Begins the name of what is being written and is nothing yet."""
ABANDONED_S: Final = 3600.0

BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
"""A bucket's name as any S3 has it: neither credentials nor a port, which would make it an address."""


class Blob(NamedTuple):
    content: bytes
    version: str
    """Changes with every change of the content; compare-and-set expects it."""


class S3Object(NamedTuple):
    key: str
    version: str
    """Its ETag."""
    num_bytes: int


class Storage(Protocol):
    """Keys are relative paths with '/'."""

    uri: str
    """As people read it."""
    location: str
    """What `open_storage` makes the same of in another process: `uri`, and what is asked of a bucket."""

    def read(self, key: str) -> Blob | None: ...

    def write(self, key: str, content: bytes, *, expect: str | None = None) -> str:
        """Write atomically and return the new version; with `expect`, only if the present version is that one.

        Raises:
            Conflict: another version is there.
        """
        ...

    def list(self, prefix: str) -> Iterator[str]:
        """Keys below the folder `prefix`, sorted."""
        ...

    def filesystem(self, key: str) -> tuple[FileSystem, str]:
        """A pyarrow filesystem and the path of `key` in it."""
        ...


def checked_key(where: str, key: str) -> str:
    """`key`, if it stays in its storage. Parts of keys come from people and from requests: names, revisions, ids.

    Raises:
        InputError: it is absolute, goes up a folder or holds a null byte.
    """
    if key.startswith("/") or ".." in key.split("/") or "\0" in key:
        raise InputError(f"{where}: {key!r}", "is a path out of the storage", "give a plain name, without / or ..")
    return key


class LocalStorage:
    """A folder. Versions are content hashes; a lock file per key makes the compare-and-set atomic across processes."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()
        self.uri = self.location = str(self.root)

    def path(self, key: str) -> Path:
        """Where `key` is kept."""
        return self.root / checked_key(self.uri, key)

    def read(self, key: str) -> Blob | None:
        try:
            content = self.path(key).read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None
        return Blob(content, hashlib.sha256(content).hexdigest())

    def write(self, key: str, content: bytes, *, expect: str | None = None) -> str:
        path = self.path(key)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._locked(key):
                if expect is not None:
                    present = self.read(key)
                    if (present.version if present else ABSENT) != expect:
                        raise Conflict(f"{path} was changed by someone else")
                _replace(path, content)
        return hashlib.sha256(content).hexdigest()

    def list(self, prefix: str) -> Iterator[str]:
        base = self.path(prefix)
        for path in sorted(base.rglob("*")) if base.is_dir() else ():
            if path.is_file() and not path.name.startswith(STAGING):
                yield path.relative_to(self.root).as_posix()

    def filesystem(self, key: str) -> tuple[FileSystem, str]:
        from pyarrow.fs import LocalFileSystem

        return LocalFileSystem(), str(self.path(key))

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        locks = self.root / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        with open(locks / hashlib.sha256(key.encode()).hexdigest()[:2], "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class S3Storage:
    """A bucket or a folder in one. Versions are ETags; conditional writes use If-Match and If-None-Match."""

    def __init__(self, place: str | StorageConfig) -> None:
        self.config = read_location(place) if isinstance(place, str) else place
        parts = urlsplit(self.config.uri)
        if not BUCKET.fullmatch(parts.netloc) or parts.query or parts.fragment:
            remedy = "write s3://bucket/folder; the endpoint is set by AWS_ENDPOINT_URL alone"
            raise InputError(self.config.uri, "is no bucket with a folder", remedy)
        self.uri, self.location = self.config.uri.rstrip("/"), self.config.location
        self.bucket, self.prefix = parts.netloc, parts.path.strip("/")
        self._client = s3_client(self.config)

    def _full(self, key: str) -> str:
        return f"{self.prefix}/{checked_key(self.uri, key)}".strip("/")

    def read(self, key: str) -> Blob | None:
        from botocore.exceptions import FlexibleChecksumError, HTTPClientError, IncompleteReadError

        with _asking_s3(self.uri):
            for left in reversed(range(S3_ATTEMPTS)):
                try:
                    answer = self._client.get_object(Bucket=self.bucket, Key=self._full(key))
                except self._client.exceptions.NoSuchKey:
                    return None
                try:
                    return Blob(answer["Body"].read(), answer["ETag"])
                except (HTTPClientError, IncompleteReadError, FlexibleChecksumError):
                    if not left:  # boto3 itself tries again up to the first byte of an answer
                        raise
        raise AssertionError("the last attempt returns or raises")

    def write(self, key: str, content: bytes, *, expect: str | None = None) -> str:
        from botocore.exceptions import ClientError

        condition = {} if expect is None else {"IfNoneMatch": "*"} if expect == ABSENT else {"IfMatch": expect}
        arguments = {**condition, **self.config.written_with}
        with _asking_s3(self.uri):
            try:
                answer = self._client.put_object(Bucket=self.bucket, Key=self._full(key), Body=content, **arguments)
            except ClientError as error:
                if error.response["Error"]["Code"] in ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"):
                    if mine := self._written_before(key, content, error.response):
                        return mine
                    raise Conflict(f"{self.uri}/{key} was changed by someone else") from None
                raise
        return str(answer["ETag"])

    def _written_before(self, key: str, content: bytes, refusal: Mapping[str, Any]) -> str | None:
        """The version that an attempt of this very call made, whose answer was lost; None where somebody else was first."""
        if not refusal.get("ResponseMetadata", {}).get("RetryAttempts"):
            return None
        there = self.read(key)
        return there.version if there is not None and there.content == content else None

    def list(self, prefix: str) -> Iterator[str]:
        return (found.key for found in self.objects(prefix))

    def objects(self, prefix: str) -> Iterator[S3Object]:
        """What is below the folder `prefix`, sorted by key."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=self._full(prefix).rstrip("/") + "/"
        )
        skip = len(self.prefix) + 1 if self.prefix else 0
        with _asking_s3(self.uri):
            for page in pages:
                for item in page.get("Contents", ()):
                    yield S3Object(item["Key"][skip:], item["ETag"], item["Size"])

    def fetch(self, key: str, path: Path) -> None:
        """Write the object to the local file `path`, parts of a large one at once.

        Raises:
            InputError: it is not there.
        """
        from botocore.exceptions import ClientError

        with _asking_s3(self.uri):
            try:
                self._client.download_file(self.bucket, self._full(key), str(path))
            except ClientError as error:
                if error.response["Error"]["Code"] not in ("404", "NoSuchKey"):
                    raise
                again = "run the same command again; if it is not there then either, run the stage that makes it"
                raise InputError(f"{self.uri}/{key}", "is not there any more", again) from None

    def send(self, path: Path, key: str) -> None:
        """Write the local file `path` to `key`, parts of a large one at once."""
        with _asking_s3(self.uri):
            self._client.upload_file(str(path), self.bucket, self._full(key), ExtraArgs=self.config.written_with)

    def remove(self, keys: Iterable[str]) -> None:
        with _asking_s3(self.uri):
            for key in keys:
                self._client.delete_object(Bucket=self.bucket, Key=self._full(key))

    def age(self, key: str) -> tuple[str, float] | None:
        """The object's version, and how long ago it was written in seconds, by the server's clock alone.

        Raises:
            InputError: the server tells no time.
        """
        from botocore.exceptions import ClientError

        with _asking_s3(self.uri):
            try:
                answer = self._client.head_object(Bucket=self.bucket, Key=self._full(key))
            except ClientError as error:
                if error.response["Error"]["Code"] in ("404", "NoSuchKey"):
                    return None
                raise
        if (told := answer["ResponseMetadata"]["HTTPHeaders"].get("date")) is None:
            raise InputError(
                self.uri, "the server's answer has no Date", "use a server that sends one (RFC 9110, 6.6.1)"
            )
        now = parsedate_to_datetime(told)
        return str(answer["ETag"]), (now - answer["LastModified"]).total_seconds()

    def filesystem(self, key: str) -> tuple[FileSystem, str]:
        path = f"{self.bucket}/{self._full(key)}"
        if not self.config.is_sealed:
            return s3_filesystem(), path
        from cluster.sealed import sealed_filesystem

        return sealed_filesystem(self.config), path


@contextmanager
def _asking_s3(uri: str) -> Iterator[None]:
    """A bucket that is not there, does not let us in or does not answer is for the user to mend; anything else keeps its
    traceback."""
    from boto3.exceptions import RetriesExceededError, S3UploadFailedError
    from botocore.exceptions import (
        ClientError,
        ConnectionError,
        FlexibleChecksumError,
        HTTPClientError,
        IncompleteReadError,
        NoCredentialsError,
        PartialCredentialsError,
    )

    remedy = "check the bucket's name, the credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID) and AWS_ENDPOINT_URL"
    again = "check AWS_ENDPOINT_URL and the network, then run the same command again"
    try:
        yield
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise InputError(uri, str(error), remedy) from None
    except (
        ConnectionError,
        HTTPClientError,
        IncompleteReadError,
        FlexibleChecksumError,
        RetriesExceededError,
        S3UploadFailedError,
    ) as error:
        raise InputError(uri, f"no answer: {error}", again) from None
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in REFUSALS:
            raise InputError(uri, code, remedy) from None
        if code.startswith("KMS."):
            raise InputError(uri, code, "check `storage.kms_key_id`, and the right to use that key") from None
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) in SERVER_ERRORS:
            raise InputError(uri, f"no answer: {error}", again) from None
        raise


def open_storage(place: str | StorageConfig) -> Storage:
    """The storage at a local folder, file:// or s3:// location, or as a recipe says.

    Raises:
        InputError: the location's scheme is none of these.
    """
    location = place if isinstance(place, str) else place.uri
    match urlsplit(location).scheme:
        case "s3":
            return S3Storage(place)
        case "" | "file":
            return LocalStorage(location.removeprefix("file://"))
        case scheme:
            raise InputError(location, f"unknown storage scheme {scheme}://", "use a folder or s3://bucket/folder")


def filesystem_to_write(storage: Storage, key: str) -> tuple[FileSystem, str]:
    """As `storage.filesystem`, but what becomes an object on S3 goes through boto3: pyarrow waits for ever for a write that is not
    answered."""
    filesystem, path = storage.filesystem(key)
    if not isinstance(storage, S3Storage):
        return filesystem, path
    from cluster.sealed import sealed_filesystem

    return sealed_filesystem(storage.config), path


def s3_filesystem() -> FileSystem:
    """pyarrow's S3, at the same endpoint as boto3's."""
    from cluster.patient_s3 import PatientS3

    endpoint = s3_endpoint()
    if endpoint is None:
        return PatientS3()
    parts = urlsplit(endpoint)
    return PatientS3(endpoint_override=parts.netloc, scheme=parts.scheme)


def s3_client(config: StorageConfig) -> Any:
    """boto3's, at the endpoint of the environment."""
    import boto3
    from botocore.config import Config

    # Parts of a large file have checksums only where they are asked for: `when_supported` asks for all, CRC32 by default.
    sums = "when_required" if config.checksum == "off" else "when_supported"
    settings = Config(
        retries={"mode": "adaptive", "total_max_attempts": S3_ATTEMPTS},
        connect_timeout=S3_SILENCE_S,
        read_timeout=S3_SILENCE_S,
        request_checksum_calculation=sums,
        response_checksum_validation=sums,
    )
    return boto3.client("s3", endpoint_url=s3_endpoint(), config=settings)


@contextmanager
def staged_folder(storage: Storage, key: str) -> Iterator[Path]:
    """A local folder to fill; what is in it when the block ends without an error becomes `key`, replacing what was there."""
    near = storage.root if isinstance(storage, LocalStorage) else home() / "cache"
    near.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(near)
    staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=near))
    descriptor = os.open(staging, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: what a killed process leaves there stays
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield staging
        publish_folder(storage, staging, key)
    finally:
        os.close(descriptor)
        shutil.rmtree(staging, ignore_errors=True)


def _remove_abandoned(near: Path) -> None:
    """Folders that a killed process was filling: nobody has them locked. New ones are left: they are locked after they are made."""
    for folder in near.glob(f"{STAGING}*"):
        with suppress(OSError):
            if folder.is_dir() and time.time() - folder.stat().st_mtime > ABANDONED_S:
                _remove_unlocked(folder)


def _remove_unlocked(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    finally:
        os.close(descriptor)


def publish_folder(storage: Storage, folder: Path, key: str) -> None:
    """Move (file) or upload (S3) `folder` to `key`."""
    if isinstance(storage, LocalStorage):
        target = storage.path(key)
        with writing(target):
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.chmod(folder, 0o755)  # noqa: S103  # mkdtemp made it 0700; artifacts are read by other users' workers
            os.rename(folder, target)
        return
    assert isinstance(storage, S3Storage)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [f"{key}/{path.relative_to(folder).as_posix()}" for path in paths]
    for path, name in zip(paths, names, strict=True):
        storage.send(path, name)
    storage.remove(sorted(set(storage.list(key)) - set(names)))


def remove_folder(storage: Storage, key: str) -> None:
    """Remove `key` with everything below it; nothing there is no error."""
    from pyarrow.fs import FileType

    filesystem, path = filesystem_to_write(storage, key)
    if filesystem.get_file_info(path).type == FileType.Directory:
        filesystem.delete_dir(path)


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _replace(path: Path, content: bytes) -> None:
    """Readers see the old content or the new one, never a part."""
    handle, name = tempfile.mkstemp(prefix=STAGING, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What a disk or its owner refuses at `path` becomes a message.

    Raises:
        ResourceError: no space, no permission.
        InputError: a file is where a folder must be.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (28, 122):  # ENOSPC, EDQUOT
            raise ResourceError(
                str(path), "no space left on the disk", "free some space and run the same command again"
            ) from None
        if isinstance(error, NotADirectoryError | FileExistsError):
            raise InputError(str(path), "a file is where a folder must be", "name another `storage:`") from None
        if isinstance(error, PermissionError):
            raise ResourceError(str(path), "permission denied", "give the user of serinus write access there") from None
        raise
