"""A bucket by itself, where a test says more of the storage than its folder; processes to be killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import REPOSITORY


@pytest.fixture
def bucket(s3_uri: str) -> str:
    """The name of an empty bucket on a real S3 server; the environment leads there."""
    return s3_uri.removeprefix("s3://").partition("/")[0]


@pytest.fixture
def python() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts Python on a program with its arguments, standard input and output being ours; killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def start(program: str, *arguments: str) -> subprocess.Popen[str]:
        command, pipe = [sys.executable, "-c", program, *arguments], subprocess.PIPE
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        started.append(subprocess.Popen(command, env=environment, text=True, stdin=pipe, stdout=pipe))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()
