"""A bucket by itself, where a test says more of the storage than its folder."""

from __future__ import annotations

import pytest


@pytest.fixture
def bucket(s3_uri: str) -> str:
    """The name of an empty bucket on a real S3 server; the environment leads there."""
    return s3_uri.removeprefix("s3://").partition("/")[0]
