"""`storage:` of a recipe: a plain location, or a bucket with what its objects are written with. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from pydantic import Field, ValidationError, model_serializer, model_validator

from cluster.config import Location, StrictModel
from cluster.errors import InputError

SSE = {"s3": "AES256", "kms": "aws:kms"}
"""In the words of S3's API (PutObject, x-amz-server-side-encryption)."""


class StorageConfig(StrictModel):
    """Where artifacts are kept. A plain string stands for `uri` alone."""

    uri: Location
    """Folder or s3://bucket/folder that keeps every artifact."""
    encryption: Literal["s3", "kms"] | None = None
    """Asked for with every object: the server's own keys (SSE-S3) or a key of its key service (SSE-KMS). None leaves it to the
    bucket."""
    kms_key_id: str | None = Field(default=None, min_length=1, max_length=2048, pattern=r"^[\w:/.+=@-]+$")
    """Id, ARN or alias of the key; None takes the account's default key for S3."""
    checksum: Literal["crc32", "sha256", "off"] = "crc32"
    """Sent with every object, kept beside it and compared when it is read. `off` is for servers that refuse checksums."""
    cache_gib: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """What each node keeps of the bucket's models at most, those that were used last. None keeps them while the disk is less than
    85 % full."""

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        return {"uri": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.kms_key_id and self.encryption != "kms":
            raise ValueError("kms_key_id is for `encryption: kms`")
        if self.options and not self.uri.startswith("s3://"):
            raise ValueError(
                f"{', '.join(self.options)}: for s3:// alone; a folder is encrypted by its disk, and used where it is"
            )
        return self

    @model_serializer
    def _dumped(self) -> str | dict[str, str]:
        return {"uri": self.uri, **self.options} if self.options else self.uri

    @property
    def options(self) -> dict[str, str]:
        """What is not as it is by default."""
        chosen = {"encryption": self.encryption, "kms_key_id": self.kms_key_id}
        chosen["cache_gib"] = None if self.cache_gib is None else f"{self.cache_gib:g}"
        checksum = {} if self.checksum == "crc32" else {"checksum": self.checksum}
        return {**{name: value for name, value in chosen.items() if value}, **checksum}

    @property
    def is_sealed(self) -> bool:
        """Objects are written with what pyarrow's own S3 cannot ask for."""
        return bool(self.options.keys() - {"cache_gib"})

    @property
    def location(self) -> str:
        """All of it in one string, for other processes."""
        plain = self.uri.rstrip("/")
        return f"{plain}?{urlencode(self.options, quote_via=quote)}" if self.options else plain

    @property
    def written_with(self) -> dict[str, str]:
        """Arguments of PutObject, CreateMultipartUpload and CopyObject, as boto3 has them."""
        arguments = {"ServerSideEncryption": SSE[self.encryption]} if self.encryption else {}
        arguments |= {"SSEKMSKeyId": self.kms_key_id} if self.kms_key_id else {}
        return {**arguments, "ChecksumAlgorithm": "SHA256"} if self.checksum == "sha256" else arguments


def read_location(location: str) -> StorageConfig:
    """What `StorageConfig.location` has written, or a plain location.

    Raises:
        InputError: a bucket's URI has anything else behind a question mark.
    """
    parts = urlsplit(location)
    if parts.scheme != "s3" or not parts.query:
        return StorageConfig(uri=location)
    plain = parts._replace(query="").geturl()
    try:
        return StorageConfig.model_validate({"uri": plain, **_strictly(parts.query)})
    except (ValidationError, ValueError):
        remedy = "write s3://bucket/folder; encryption, checksum and cache_gib are fields beside `storage.uri`"
        raise InputError(location, "is no bucket with a folder", remedy) from None


def _strictly(query: str) -> Mapping[str, str]:
    pairs = parse_qsl(query, strict_parsing=True, keep_blank_values=True)
    if len(dict(pairs)) != len(pairs) or "uri" in dict(pairs):
        raise ValueError("given twice")
    return dict(pairs)
