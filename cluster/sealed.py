"""A bucket's files for pyarrow, written by boto3: with encryption and checksums, which pyarrow's own S3 cannot ask for.

pyarrow 26 takes neither server-side encryption nor a checksum's algorithm, and it writes empty objects for folders when it
makes or deletes something. So it reads here, and whatever becomes an object goes through boto3.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSelector, FileSystemHandler, PyFileSystem

from cluster.storage_config import StorageConfig

MEMORY_BYTES: Final = 8 << 20
"""Of a file under way; beyond, it grows in the temporary folder until it is closed and uploaded."""

DELETED_AT_ONCE: Final = 1000
"""As many as DeleteObjects takes."""


def sealed_filesystem(config: StorageConfig) -> PyFileSystem:
    """pyarrow's filesystem of all buckets at the environment's endpoint. It can be pickled, and then connects anew."""
    return PyFileSystem(SealedHandler(config))


class SealedHandler(FileSystemHandler):
    """Paths are bucket/key."""

    def __init__(self, config: StorageConfig) -> None:
        from cluster.s3 import s3_client, s3_filesystem

        self._config, self._plain, self._client = config, s3_filesystem(), s3_client(config)

    def __reduce__(self) -> tuple[Any, ...]:
        return SealedHandler, (self._config,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SealedHandler) and other._config == self._config

    def __hash__(self) -> int:
        return hash(self._config.location)

    def get_type_name(self) -> str:
        return "s3+sealed"

    def normalize_path(self, path: str) -> str:
        return str(self._plain.normalize_path(path))

    # Reading is pyarrow's.

    def get_file_info(self, paths: Sequence[str]) -> list[FileInfo]:
        return list(self._plain.get_file_info(list(paths)))

    def get_file_info_selector(self, selector: FileSelector) -> list[FileInfo]:
        return list(self._plain.get_file_info(selector))

    def open_input_stream(self, path: str) -> Any:
        return self._plain.open_input_stream(path)

    def open_input_file(self, path: str) -> Any:
        return self._plain.open_input_file(path)

    # Writing is boto3's.

    def open_output_stream(self, path: str, metadata: Any) -> pa.PythonFile:
        return pa.PythonFile(_Upload(self._client, path, self._config.written_with), mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> Any:
        raise NotImplementedError("objects cannot be appended to")

    def create_dir(self, path: str, recursive: bool) -> None:
        """Folders are what keys have in common, and buckets are made by their owner: nothing to do."""

    def copy_file(self, src: str, dest: str) -> None:
        (bucket, key), (target, name) = _split(src), _split(dest)
        self._client.copy({"Bucket": bucket, "Key": key}, target, name, ExtraArgs=self._config.written_with)

    def move(self, src: str, dest: str) -> None:
        self.copy_file(src, dest)
        self.delete_file(src)

    def delete_file(self, path: str) -> None:
        bucket, key = _split(path)
        self._client.delete_object(Bucket=bucket, Key=key)

    def delete_dir(self, path: str) -> None:
        bucket, key = _split(path)
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=f"{key}/", PaginationConfig={"PageSize": DELETED_AT_ONCE}
        )
        for page in pages:
            if names := [{"Key": item["Key"]} for item in page.get("Contents", ())]:
                _check_deleted(self._client.delete_objects(Bucket=bucket, Delete={"Objects": names, "Quiet": True}))

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self.delete_dir(path)

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError("buckets are not emptied")


class _Upload:
    """A file that becomes an object when it is closed: until then readers see the old one, or none. One that could not be written
    becomes none; one that its writer left in the middle does, as with pyarrow."""

    closed, is_whole = False, True

    def __init__(self, client: Any, path: str, written_with: dict[str, str]) -> None:
        self._client, self._path, self._written_with = client, path, written_with
        self._content = tempfile.SpooledTemporaryFile(max_size=MEMORY_BYTES)  # noqa: SIM115  # until `close`

    def write(self, data: Any) -> int:
        try:
            return self._content.write(data)
        except OSError as error:  # the temporary folder is full, say; whoever opened the file closes it all the same
            self.is_whole = False
            raise OSError(error.errno, error.strerror, tempfile.gettempdir()) from None

    def tell(self) -> int:
        return self._content.tell()

    def flush(self) -> None:
        """Nothing is readable before `close`."""

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        bucket, key = _split(self._path)
        with self._content as content:
            if not self.is_whole:
                return
            content.seek(0)
            self._client.upload_fileobj(content, bucket, key, ExtraArgs=self._written_with)


def _split(path: str) -> tuple[str, str]:
    bucket, _, key = path.strip("/").partition("/")
    if not key:
        raise OSError(f"{path}: buckets are neither written nor deleted")
    return bucket, key


def _check_deleted(answer: dict[str, Any]) -> None:
    if errors := answer.get("Errors"):
        raise OSError(f"{errors[0]['Key']}: {errors[0]['Code']}, and {len(errors) - 1} more")
