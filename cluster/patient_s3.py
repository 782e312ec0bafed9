"""pyarrow's S3 with more attempts for a call that fails, on workers too: pyarrow 26 leaves its retry strategy out of a pickle."""

from __future__ import annotations

from typing import Any, Final

from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

ATTEMPTS: Final = 10
"""By pyarrow's own 3 one call in a thousand is lost where one attempt in ten is."""


class PatientS3(S3FileSystem):
    """Small files are one PutObject, which can be repeated: an upload in parts whose end is not answered cannot be ended again."""

    def __init__(self, **settings: Any) -> None:
        retry = AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS)
        super().__init__(**{**settings, "retry_strategy": retry, "allow_delayed_open": True})

    def __reduce__(self) -> tuple[Any, ...]:
        _, (settings,) = super().__reduce__()
        return _patient, (settings,)


def _patient(settings: dict[str, Any]) -> PatientS3:
    return PatientS3(**settings)
