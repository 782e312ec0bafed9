"""Token files, as one task of Ray makes them of a shard."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import ResourceError
from cluster.storage import LocalStorage, Storage, open_storage
from pipelines.training import tokens


def job_in(storage: LocalStorage, model: Path) -> dict[str, str]:
    """To tokenise one shard, which lies there."""
    shutil.copytree(model, storage.root / "model")
    pq.write_table(pa.Table.from_pylist([{"id": "a", "text": "some words " * 50}]), storage.root / "0.parquet")
    target = "runs/tokens/k/0.bin"
    return {"storage": storage.location, "model": "model", "source": "0.parquet", "target": target, "sha256": ""}


def test_what_one_run_reads_another_that_makes_it_again_leaves_whole(
    storage: LocalStorage, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_in(storage, tiny_model)
    tokens.tokenize_shard(job)
    file = storage.root / job["target"]
    before, texts_of, seen = np.memmap(file, dtype="<u2", mode="r"), tokens.texts_of, list[int]()

    def looking(given: Storage, source: str) -> Iterator[list[str]]:
        for texts in texts_of(given, source):
            seen.append(file.stat().st_size)
            yield texts
            seen.append(file.stat().st_size)

    monkeypatch.setattr(tokens, "texts_of", looking)
    made = tokens.tokenize_shard(job)

    assert seen == [before.nbytes, before.nbytes]
    assert np.array_equal(before, np.fromfile(file, dtype="<u2"))
    assert made["num_tokens"] == len(before)
    assert [path.name for path in file.parent.iterdir()] == ["0.bin"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_refuses_more_is_left_without_what_was_begun(
    storage: LocalStorage, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    job = job_in(storage, tiny_model)

    def half(*_: object) -> Iterator[list[str]]:
        yield ["some words"]
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tokens, "texts_of", half)
    with pytest.raises(ResourceError):
        tokens.tokenize_shard(job)
    assert {path.name for path in storage.root.rglob("*") if path.is_file()} == {
        "0.parquet",
        *(path.name for path in tiny_model.iterdir()),
    }


def test_what_a_killed_process_had_begun_goes_with_the_next_start(storage: LocalStorage, tiny_model: Path) -> None:
    job = job_in(storage, tiny_model)
    killed = f"""
import os
from cluster.storage import LocalStorage
from pipelines.training.tokens import _written_whole
with _written_whole(LocalStorage({storage.location!r}), {job["target"]!r}) as file:
    file.write(b"half")
    os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", killed], check=False).returncode == 9
    found = list(storage.root.glob(".tmp-*/tokens"))
    assert len(found) == 1
    os.utime(found[0].parent, (0, 0))
    tokens.tokenize_shard(job)
    assert not found[0].parent.exists()


def test_on_the_way_to_a_bucket_the_disk_of_the_temporary_folder_is_the_full_one(s3_uri: str) -> None:
    with pytest.raises(ResourceError) as caught, tokens._written_whole(open_storage(s3_uri), "runs/tokens/k/0.bin"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.where == tempfile.gettempdir()
