"""Copies of a bucket's folders on a node (moto, a process of its own): fetched once, checked, and gone when room is needed."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cluster import node_cache
from cluster import s3 as module
from cluster.errors import InputError, ResourceError
from cluster.node_cache import lent_copy, local_copy
from cluster.s3 import S3Storage
from cluster.storage_config import StorageConfig
from tests.chaos.flaky_s3 import Counting, serving

MODEL = "artifacts/model/0123456789abcdef/model"
FILES = {"config.json": b"{}", "weights/a.safetensors": b"a" * 1000, "weights/b.safetensors": b"b" * 2000}
USAGE: Any = type(shutil.disk_usage("/"))
USER = """
import sys
from cluster.node_cache import local_copy
from cluster.storage import open_storage
print(local_copy(open_storage(sys.argv[1]), sys.argv[2]), flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("SERINUS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(node_cache, "_held", {})
    yield tmp_path / "home" / "cache"
    _let_go()


@pytest.fixture
def bucket(s3_uri: str, cache: Path) -> S3Storage:
    return S3Storage(s3_uri)


@pytest.fixture
def use(python: Callable[..., subprocess.Popen[str]]) -> Callable[[S3Storage, str], subprocess.Popen[str]]:
    """A process that uses the copy of a folder until it is killed."""
    return lambda storage, key: python(USER, storage.location, key)


def _let_go() -> None:
    for descriptor in node_cache._held.values():
        os.close(descriptor)
    node_cache._held.clear()


def _put(storage: S3Storage, key: str = MODEL, files: dict[str, bytes] = FILES) -> None:
    """The files, and the manifest that tells them."""
    for path, content in files.items():
        storage.write(f"{key}/{path}", content)
    told = [{"path": f"model/{path}", "sha256": hashlib.sha256(content).hexdigest()} for path, content in files.items()]
    storage.write(f"{key.rpartition('/')[0]}/manifest.json", json.dumps({"files": told}).encode())


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Watched(NamedTuple):
    storage: S3Storage
    server: Counting


@pytest.fixture
def watched(bucket: S3Storage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    _put(bucket)
    endpoint = module.s3_endpoint()
    assert endpoint is not None
    with serving(Counting(endpoint)) as (address, server):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        yield Watched(S3Storage(bucket.uri), server)


def test_processes_that_want_it_at_once_share_one_download(
    watched: Watched, use: Callable[[S3Storage, str], subprocess.Popen[str]]
) -> None:
    users = [use(watched.storage, MODEL) for _ in range(3)]
    folders = {user.stdout.readline().strip() for user in users if user.stdout}
    assert len(folders) == 1
    assert _files(Path(folders.pop())) == FILES
    fetched = [key for key in watched.server.fetched if not key.endswith("manifest.json")]
    assert sorted(fetched) == [f"{MODEL}/{path}" for path in sorted(FILES)]


def test_a_download_that_broke_off_goes_on(watched: Watched) -> None:
    folder = local_copy(watched.storage, MODEL)
    _let_go()
    part = folder.with_name(f"{folder.name}.part")
    folder.rename(part)
    (part / "weights/b.safetensors").write_bytes(b"b" * 700)
    (part / "weights/b.safetensors.1f2E3d4C").write_bytes(b"boto3's, cut")
    watched.server.fetched.clear()
    assert _files(local_copy(watched.storage, MODEL)) == FILES
    assert f"{MODEL}/weights/b.safetensors" in watched.server.fetched
    assert f"{MODEL}/weights/a.safetensors" not in watched.server.fetched
    assert not part.exists()


def test_another_content_under_the_same_key_is_another_copy(bucket: S3Storage) -> None:
    _put(bucket)
    before = local_copy(bucket, MODEL)
    _put(bucket, files={**FILES, "config.json": b'{"a": 1}'})
    assert _files(local_copy(bucket, MODEL))["config.json"] == b'{"a": 1}'
    assert _files(before) == FILES


def test_a_file_that_is_not_what_its_manifest_tells_is_refused(bucket: S3Storage, cache: Path) -> None:
    _put(bucket)
    bucket.write(f"{MODEL}/weights/b.safetensors", b"B" * 2000)
    with pytest.raises(InputError, match="is not what its manifest tells") as caught:
        local_copy(bucket, MODEL)
    assert caught.value.where == f"{bucket.uri}/{MODEL}/weights/b.safetensors"
    assert not any(path.name.endswith("b.safetensors") for path in cache.rglob("*"))
    _put(bucket)
    assert _files(local_copy(bucket, MODEL)) == FILES


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda bucket: bucket.remove([f"{MODEL}/config.json"]), "is on record, and not there"),
        (lambda bucket: bucket.remove([f"{MODEL}/{path}" for path in FILES]), "nothing is there"),
    ],
)
def test_what_is_not_there_is_said(bucket: S3Storage, spoil: Callable[[S3Storage], None], found: str) -> None:
    _put(bucket)
    spoil(bucket)
    with pytest.raises(InputError, match=found):
        local_copy(bucket, MODEL)


def test_a_folder_of_no_artifact_is_copied_too(bucket: S3Storage) -> None:
    bucket.write("runs/tokens/1/000000.bin", b"1234")
    assert _files(local_copy(bucket, "runs/tokens/1")) == {"000000.bin": b"1234"}


def test_what_a_console_makes_as_folders_is_no_file(bucket: S3Storage) -> None:
    _put(bucket)
    for folder in (MODEL, f"{MODEL}/weights"):
        bucket._client.put_object(Bucket=bucket.bucket, Key=f"folder/{folder}/", Body=b"")
    assert _files(local_copy(bucket, MODEL)) == FILES


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda bucket: bucket.remove(["runs/tokens/1/b"]), "is not there any more"),
        (lambda bucket: bucket.write("runs/tokens/1/b", b"5678"), "was changed while it was fetched"),
    ],
)
def test_what_changes_meanwhile_is_said(
    bucket: S3Storage, monkeypatch: pytest.MonkeyPatch, change: Callable[[S3Storage], None], found: str
) -> None:
    for name in "ab":
        bucket.write(f"runs/tokens/1/{name}", b"1234")
    fetch = S3Storage.fetch

    def fetched(storage: S3Storage, key: str, path: Path) -> None:
        fetch(storage, key, path)
        change(storage)

    monkeypatch.setattr(S3Storage, "fetch", fetched)
    with pytest.raises(InputError, match=found):
        local_copy(bucket, "runs/tokens/1")


def _bounded(uri: str, num_copies: float) -> S3Storage:
    gib = num_copies * sum(map(len, FILES.values())) / 2**30
    return S3Storage(StorageConfig.model_validate({"uri": uri, "cache_gib": gib}))


def _key(number: int) -> str:
    return f"artifacts/model/{number:016x}/model"


def test_the_copy_used_longest_ago_goes_for_another(bucket: S3Storage, cache: Path) -> None:
    storage, folders = _bounded(bucket.uri, 2), []
    (cache / "models" / "of-others").mkdir(parents=True)
    for number in (0, 1, 0, 2):
        _put(bucket, _key(number))
        folders.append(local_copy(storage, _key(number)))
        _let_go()
        time.sleep(0.02)  # the file's time tells the order
    assert [folder.exists() for folder in folders] == [True, False, True, True]
    names = {folders[0].name, folders[3].name, "models"}
    assert {path.name for path in cache.iterdir() if path.is_dir()} == names


def test_a_copy_in_use_stays_until_its_process_ends(
    bucket: S3Storage, use: Callable[[S3Storage, str], subprocess.Popen[str]]
) -> None:
    storage = _bounded(bucket.uri, 1.5)
    for number in (0, 1):
        _put(bucket, _key(number))
    user = use(storage, _key(0))
    assert user.stdout is not None
    folder = Path(user.stdout.readline().strip())
    with pytest.raises(ResourceError, match=r"takes 0\.0 GiB, beside 0\.0 GiB in use") as caught:
        local_copy(storage, _key(1))
    assert "storage.cache_gib" in caught.value.remedy
    assert _files(folder) == FILES
    user.kill()
    user.wait()
    assert _files(local_copy(storage, _key(1))) == FILES
    assert not folder.exists()


def test_a_copy_that_is_lent_stays_until_all_have_given_it_back(bucket: S3Storage) -> None:
    storage = _bounded(bucket.uri, 1.5)
    for number in (0, 1):
        _put(bucket, _key(number))
    one, other = lent_copy(storage, _key(0)), lent_copy(storage, _key(0))
    one.give_back()
    one.give_back()
    with pytest.raises(ResourceError, match=r"beside 0\.0 GiB in use"):
        local_copy(storage, _key(1))
    assert _files(other.folder) == FILES
    other.give_back()
    assert _files(local_copy(storage, _key(1))) == FILES
    assert not one.folder.exists()


def test_what_a_killed_download_left_goes_too(bucket: S3Storage, cache: Path) -> None:
    left = cache / "0123456789abcdef.part"
    left.mkdir(parents=True)
    (left / "a").write_bytes(b"a" * 3000)
    (cache / "0123456789abcdef.lock").write_text("3000\n")
    _put(bucket)
    assert _files(local_copy(_bounded(bucket.uri, 1.5), MODEL)) == FILES
    assert not left.exists()


def test_a_copy_whose_removal_broke_off_is_fetched_again(bucket: S3Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(folder: Path, **_: Any) -> None:
        for path in folder.rglob("*.safetensors"):
            path.unlink()
            raise KeyboardInterrupt

    storage = _bounded(bucket.uri, 1.5)
    for number in (0, 1):
        _put(bucket, _key(number))
    local_copy(storage, _key(0))
    _let_go()
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            local_copy(storage, _key(1))
    assert _files(local_copy(storage, _key(0))) == FILES


def test_a_download_under_way_has_its_room_on_the_disk(
    bucket: S3Storage, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _put(bucket)
    other = cache / "0123456789abcdef"
    other.with_suffix(".part").mkdir(parents=True)
    other.with_suffix(".lock").write_text("90000\n")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: USAGE(total=100_000, used=9_000, free=91_000))
    with open(other.with_suffix(".lock")) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ResourceError, match=r"the disk of .* has 0\.0 GiB left"):
            local_copy(bucket, MODEL)
    assert _files(local_copy(bucket, MODEL)) == FILES


def test_without_a_bound_copies_go_when_the_disk_is_nearly_full(
    bucket: S3Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (0, 1, 2):
        _put(bucket, _key(number))
    folders = [local_copy(bucket, _key(number)) for number in (0, 1)]
    _let_go()
    full = USAGE(total=100_000, used=84_000, free=16_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    local_copy(bucket, _key(2))
    assert [folder.exists() for folder in folders] == [False, False]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full._replace(free=100))
    with pytest.raises(ResourceError, match=r"the disk of .* has 0\.0 GiB left"):
        local_copy(bucket, _key(0))
