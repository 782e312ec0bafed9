"""pyarrow's S3 with more attempts for a call that fails, on workers too: pyarrow 26 leaves its retry strategy out of a pickle, and
what it reads is not asked for again once the answer has begun, nor when its budget of retries is spent.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import pyarrow as pa
from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

ATTEMPTS: Final = 10
"""By pyarrow's own 3 one call in a thousand is lost where one attempt in ten is."""
READ_ATTEMPTS: Final = 5
"""Each with a file opened anew, and with so many attempts of pyarrow's."""
PAUSE_S: Final = 0.2
"""Before the second; doubled each time."""
FINAL: Final = ("ACCESS_DENIED", "NO_SUCH_", "RESOURCE_NOT_FOUND", "INVALID_", "SIGNATURE", "UNRECOGNIZED_CLIENT")
"""What asking again does not change, in pyarrow's messages."""

T = TypeVar("T")


class PatientS3(S3FileSystem):
    """Small files are one PutObject, which can be repeated: an upload in parts whose end is not answered cannot be ended again."""

    def __init__(self, **settings: Any) -> None:
        retry = AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS)
        super().__init__(**{**settings, "retry_strategy": retry, "allow_delayed_open": True})

    def __reduce__(self) -> tuple[Any, ...]:
        _, (settings,) = super().__reduce__()
        return _patient, (settings,)

    def open_input_file(self, path: str) -> pa.NativeFile:
        return pa.PythonFile(SteadyFile(lambda: super(PatientS3, self).open_input_file(path)), mode="r")

    def open_input_stream(self, path: str, compression: str | None = "detect", buffer_size: int | None = None) -> Any:
        if compression is None:
            return self.open_input_file(path)
        return super().open_input_stream(path, compression=compression, buffer_size=buffer_size)


def _patient(settings: dict[str, Any]) -> PatientS3:
    return PatientS3(**settings)


class SteadyFile(io.RawIOBase):
    """A file that is opened anew where a read fails, and read on from there."""

    def __init__(self, opened: Callable[[], pa.NativeFile]) -> None:
        super().__init__()
        self._opened, self._file, self._at = opened, None, 0
        self._size: int = self._asked(lambda file: file.size())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._size - self._at)
        wanted = left if size is None or size < 0 else min(size, left)
        content: bytes = self._asked(lambda file: file.read_at(wanted, self._at)) if wanted else b""
        self._at += len(content)
        return content

    def readinto(self, buffer: Any) -> int:
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()

    def _asked(self, ask: Callable[[Any], T]) -> T:
        for attempt in range(READ_ATTEMPTS):
            try:
                if self._file is None:
                    self._file = self._opened()
                return ask(self._file)
            except OSError as error:
                self._file = None
                last = attempt == READ_ATTEMPTS - 1
                if last or "AWS Error" not in str(error) or any(final in str(error) for final in FINAL):
                    raise
                time.sleep(PAUSE_S * 2**attempt)
        raise AssertionError("the last attempt returns or raises")
