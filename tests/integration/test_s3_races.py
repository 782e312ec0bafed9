"""Two processes write one version of a dataset, or publish one revision, on a real S3 server at once: one wins, the other is told,
nothing is lost."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import registry
from cluster.artifacts import Dataset, Record, Revision, find, load
from cluster.storage import Storage, open_storage
from pipelines.data.record import parts
from tests.conftest import REPOSITORY
from tests.integration.s3_publisher import NAME
from tests.unit.pipelines.data import world

pytestmark = pytest.mark.integration

NUM_RACES = int(os.environ.get("SERINUS_RACES", "8"))
"""A hundred take a minute and more."""
WHO = ("ann", "ben")


class Writer:
    """A process of its own."""

    def __init__(self, module: str, *arguments: str) -> None:
        command = [sys.executable, "-m", f"tests.integration.{module}", *arguments]
        self.process = subprocess.Popen(
            command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def hears(self, key: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{key}\n")
        self.process.stdin.flush()

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@pytest.fixture
def writers(s3_uri: str, tmp_path: Path) -> Iterator[list[Writer]]:
    folder = tmp_path / "in"
    folder.mkdir()
    for i, text in enumerate([*world.TEXTS[:5], world.TEXTS[0]]):
        (folder / f"{i}.txt").write_text(text)
    started = [Writer("s3_writer", s3_uri, str(folder)) for _ in range(2)]
    yield started
    _end(started)


@pytest.fixture
def publishers(s3_uri: str) -> Iterator[list[Writer]]:
    started = [Writer("s3_publisher", s3_uri, who) for who in WHO]
    yield started
    _end(started)


def _end(writers: list[Writer]) -> None:
    for writer in writers:
        writer.process.kill()
        writer.process.wait()


def test_one_wins_the_other_is_told_and_nothing_is_lost(s3_uri: str, writers: list[Writer]) -> None:
    assert [writer.says() for writer in writers] == ["ready", "ready"]
    storage = open_storage(s3_uri)
    digests = set[str]()
    for number in range(NUM_RACES):
        key = f"{number:016x}"
        first, second = writers if number % 2 else writers[::-1]
        first.hears(key)
        second.hears(key)
        answers = [writer.says() for writer in writers]
        assert sorted(answers) == ["lost", "won"], f"race {number}: {answers}"
        digests.add(_whole(storage, key))
    assert len(digests) == 1  # the same documents, whoever won


def test_of_two_publishers_one_wins(s3_uri: str, publishers: list[Writer]) -> None:
    assert [publisher.says() for publisher in publishers] == ["ready", "ready"]
    storage, winners = open_storage(s3_uri), list[str]()
    for number in range(NUM_RACES):
        key = f"{number:016x}"
        for publisher in publishers if number % 2 else publishers[::-1]:
            publisher.hears(key)
        answers = [publisher.says() for publisher in publishers]
        assert sorted(answers) == ["lost", "won"], f"race {number}: {answers}"
        winners.append(WHO[answers.index("won")])
        for wanted in ("candidate", f"{NAME}-{key}"):
            published = registry.resolve(storage, NAME, wanted)
            assert (published.key, published.weights) == (key, f"artifacts/quantized/{winners[-1]}/model")
        assert load(storage, Revision, key) == published
    assert len(registry.revisions(storage, NAME)) == NUM_RACES
    assert [move.who for move in registry.alias_history(storage, NAME)] == winners


def _whole(storage: Storage, key: str) -> str:
    """What is stored is what the manifests tell, to the byte. The hash of all of it."""
    made, record = load(storage, Dataset, key), load(storage, Record, key)
    assert made is not None
    assert record is not None
    assert record.inputs == {"dataset": made.digest}
    assert find(storage, made.digest) == made
    everything = hashlib.sha256()
    for manifest in (made, record):
        told = {f"{manifest.location}/{file.path}": file for file in manifest.files}
        assert {*storage.list(manifest.location)} == {*told, f"{manifest.location}/manifest.json"}
        for name, file in told.items():
            blob = storage.read(name)
            assert blob is not None
            assert hashlib.sha256(blob.content).hexdigest() == file.sha256
            everything.update(file.sha256.encode())
    assert made.num_documents == made.num_kept + made.num_excluded == 6
    assert sum(len(table) for _, table in parts(storage, made, ("id",))) == 6
    return everything.hexdigest()
