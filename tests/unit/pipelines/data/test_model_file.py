"""Bringing a model to a machine."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

from cluster.storage import sha256_of
from pipelines.data import model_file
from pipelines.data.inventory import SourceFile


def test_several_that_need_a_model_at_once_bring_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the first wait, and find it there."""
    (tmp_path / "model.bin").write_bytes(b"weights")
    monkeypatch.setenv("SERINUS_HOME", str(tmp_path / "home"))
    download, all_there, brought, found = model_file._download, threading.Barrier(4), list[Path](), list[Path]()

    def counted(file: SourceFile, path: Path) -> None:
        brought.append(path)
        download(file, path)

    monkeypatch.setattr(model_file, "_download", counted)
    monkeypatch.setattr(model_file, "_SOUND", set())
    filesystem = SubTreeFileSystem(str(tmp_path), LocalFileSystem())
    file = SourceFile(
        "model.bin", "model.bin", filesystem, None, False, "text", None, 7, sha256_of(tmp_path / "model.bin")
    )

    def take() -> None:
        all_there.wait()
        found.append(model_file.on_disk(file))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(brought) == 1
    assert [path.read_bytes() for path in found] == [b"weights"] * 4
