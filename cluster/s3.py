"""A bucket as a storage: boto3 behind `cluster.storage.Storage`, and pyarrow's S3 at the same endpoint."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

from cluster import s3_attempts
from cluster.config import s3_endpoint
from cluster.errors import Conflict, InputError
from cluster.storage import ABSENT, Blob, checked_key
from cluster.storage_config import StorageConfig, read_location

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

REFUSALS: Final = (
    "NoSuchBucket",
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "403",  # of a HEAD, whose answer has no body that tells why
)
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
"""A bucket's name as any S3 has it: neither credentials nor a port, which would make it an address."""


class Unanswered(InputError):
    """All attempts of a call failed, or had no answer."""


class S3Object(NamedTuple):
    key: str
    version: str
    """Its ETag."""
    num_bytes: int


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
        self._attempts = s3_attempts.attempts_at(s3_endpoint(), self.bucket)
        self._patient = s3_client(self.config)

    @property
    def _client(self) -> Any:
        """A run that ends does not wait its full time for each call to a bucket that has left one without an answer."""
        return self._brief if self._attempts.given_up else self._patient

    @cached_property
    def _brief(self) -> Any:
        return s3_client(self.config, s3_attempts.BRIEF_ATTEMPTS, s3_attempts.BRIEF_SILENCE_S)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            with _asking_s3(self.uri):
                yield
        except Unanswered:
            self._attempts.give_up()
            raise
        finally:
            self._attempts.left()

    def _full(self, key: str) -> str:
        return f"{self.prefix}/{checked_key(self.uri, key)}".strip("/")

    def read(self, key: str) -> Blob | None:
        from botocore.exceptions import FlexibleChecksumError, HTTPClientError, IncompleteReadError

        with self._asking():
            for left in reversed(range(self._attempts.num)):
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
        with self._asking():
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
        with self._asking():
            for page in pages:
                for item in page.get("Contents", ()):
                    yield S3Object(item["Key"][skip:], item["ETag"], item["Size"])

    def fetch(self, key: str, path: Path) -> None:
        """Write the object to the local file `path`, parts of a large one at once.

        Raises:
            InputError: it is not there.
        """
        from botocore.exceptions import ClientError

        with self._asking():
            try:
                self._client.download_file(self.bucket, self._full(key), str(path))
            except ClientError as error:
                if error.response["Error"]["Code"] not in ("404", "NoSuchKey"):
                    raise
                again = "run the same command again; if it is not there then either, run the stage that makes it"
                raise InputError(f"{self.uri}/{key}", "is not there any more", again) from None

    def send(self, path: Path, key: str) -> None:
        """Write the local file `path` to `key`, parts of a large one at once."""
        with self._asking():
            self._client.upload_file(str(path), self.bucket, self._full(key), ExtraArgs=self.config.written_with)

    def remove(self, keys: Iterable[str]) -> None:
        with self._asking():
            for key in keys:
                self._client.delete_object(Bucket=self.bucket, Key=self._full(key))

    def age(self, key: str) -> tuple[str, float] | None:
        """The object's version, and how long ago it was written in seconds, by the server's clock alone.

        Raises:
            InputError: the server tells no time.
        """
        from botocore.exceptions import ClientError

        with self._asking():
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
        raise Unanswered(uri, f"no answer: {error}", again) from None
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in REFUSALS:
            raise InputError(uri, code, remedy) from None
        if code.startswith("KMS."):
            raise InputError(uri, code, "check `storage.kms_key_id`, and the right to use that key") from None
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) in s3_attempts.SERVER_ERRORS:
            raise Unanswered(uri, f"no answer: {error}", again) from None
        raise


def s3_filesystem() -> FileSystem:
    """pyarrow's S3, at the same endpoint as boto3's."""
    from cluster.patient_s3 import PatientS3

    endpoint = s3_endpoint()
    if endpoint is None:
        return PatientS3()
    parts = urlsplit(endpoint)
    return PatientS3(endpoint_override=parts.netloc, scheme=parts.scheme)


def s3_client(config: StorageConfig, attempts: int | None = None, silence_s: float | None = None) -> Any:
    """boto3's, at the endpoint of the environment; its attempts are told of (cluster/s3_attempts.py)."""
    import boto3
    from botocore.config import Config

    # Parts of a large file have checksums only where they are asked for: `when_supported` asks for all, CRC32 by default.
    sums = "when_required" if config.checksum == "off" else "when_supported"
    settings = Config(
        retries={"mode": "adaptive", "total_max_attempts": attempts or s3_attempts.ATTEMPTS},
        connect_timeout=silence_s or s3_attempts.SILENCE_S,
        read_timeout=silence_s or s3_attempts.SILENCE_S,
        request_checksum_calculation=sums,
        response_checksum_validation=sums,
    )
    client = boto3.client("s3", endpoint_url=s3_endpoint(), config=settings)
    s3_attempts.attempts_at(s3_endpoint(), urlsplit(config.uri).netloc).follow(client)
    return client
