"""Compare-and-set under real races between processes, in a folder and in S3 (a moto server in a process of its own)."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.disk_errors import writing
from cluster.errors import Conflict, InputError, ResourceError
from cluster.lease import exclusive
from cluster.storage import ABSENT, LocalStorage, Storage, open_storage, publish_folder, staged_folder

REPOSITORY = Path(__file__).resolve().parents[3]

ADDER = """
import sys
from cluster.errors import Conflict
from cluster.storage import open_storage
storage = open_storage(sys.argv[1])
for _ in range(int(sys.argv[2])):
    while True:
        blob = storage.read("counter")
        try:
            storage.write("counter", str(int(blob.content) + 1).encode(), expect=blob.version)
            break
        except Conflict:
            pass
"""

CREATOR = """
import sys
from cluster.errors import Conflict
from cluster.storage import ABSENT, open_storage
try:
    open_storage(sys.argv[1]).write("once", sys.argv[2].encode(), expect=ABSENT)
    print("won")
except Conflict:
    print("lost")
"""


@pytest.fixture(params=["folder", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "folder":
        return str(tmp_path)
    return str(request.getfixturevalue("s3_uri"))


@pytest.fixture
def storage(uri: str) -> Storage:
    return open_storage(uri)


def _spawn(code: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env=environment, stdout=subprocess.PIPE, text=True
    )


def test_no_update_is_lost_when_processes_race(storage: Storage, uri: str) -> None:
    num_processes, num_additions = (4, 50) if isinstance(storage, LocalStorage) else (2, 5)
    storage.write("counter", b"0")
    adders = [_spawn(ADDER, uri, str(num_additions)) for _ in range(num_processes)]
    assert [adder.wait(timeout=120) for adder in adders] == [0] * num_processes
    blob = storage.read("counter")
    assert blob is not None
    assert int(blob.content) == num_processes * num_additions


def test_only_one_process_creates(storage: Storage, uri: str) -> None:
    creators = {str(number): _spawn(CREATOR, uri, str(number)) for number in range(4)}
    answers = {number: creator.communicate(timeout=120)[0].strip() for number, creator in creators.items()}
    winners = [number for number, answer in answers.items() if answer == "won"]
    assert len(winners) == 1
    blob = storage.read("once")
    assert blob is not None
    assert blob.content.decode() == winners[0]


def test_a_write_expecting_another_version_changes_nothing(storage: Storage) -> None:
    first = storage.write("folder/key", b"1", expect=ABSENT)
    second = storage.write("folder/key", b"2", expect=first)
    for stale in (first, ABSENT):
        with pytest.raises(Conflict):
            storage.write("folder/key", b"3", expect=stale)
    blob = storage.read("folder/key")
    assert blob is not None
    assert (blob.content, blob.version) == (b"2", second)


def test_a_write_expecting_something_where_nothing_is_conflicts(storage: Storage) -> None:
    with pytest.raises(Conflict):
        storage.write("absent", b"1", expect='"d41d8cd98f00b204e9800998ecf8427e"')
    assert storage.read("absent") is None


def test_list_gives_the_keys_of_a_folder_and_not_of_its_namesakes(storage: Storage) -> None:
    for key in ("a/2", "a/1/x", "ab/1", "b"):
        storage.write(key, b"")
    assert list(storage.list("a")) == ["a/1/x", "a/2"]


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(InputError, match="unknown storage scheme ftp"):
        open_storage("ftp://somewhere")


def test_only_one_run_at_a_time_holds_a_name(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    with exclusive(storage, "run-m"):
        with pytest.raises(ResourceError, match="another run is at work"), exclusive(storage, "run-m"):
            pass
        with exclusive(storage, "run-other"):
            pass
    with exclusive(storage, "run-m"):
        pass


def test_a_storage_below_a_file_is_a_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    with pytest.raises(InputError, match="a file is where a folder must be"):
        LocalStorage(tmp_path / "file").write("a/b", b"")


@pytest.mark.parametrize(
    ("number", "found"),
    [
        (errno.EROFS, "Read-only file system"),
        (errno.ESTALE, "Stale file handle"),
        (errno.EIO, "Input/output error"),
        (errno.ENOSPC, "no space left"),
    ],
)
def test_what_a_disk_refuses_is_told_with_its_reason(tmp_path: Path, number: int, found: str) -> None:
    with pytest.raises(ResourceError, match=found) as caught, writing(tmp_path / "a"):
        raise OSError(number, "as the system says it")
    assert caught.value.where == str(tmp_path / "a")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        ),  # as safetensors says it
    ],
)
def test_a_disk_that_fills_up_while_a_folder_is_staged_is_told(tmp_path: Path, error: Exception) -> None:
    storage = LocalStorage(tmp_path)
    with pytest.raises(ResourceError, match="no space left on the disk"), staged_folder(storage, "a"):
        raise error
    with pytest.raises(ValueError, match="another"), staged_folder(storage, "a"):
        raise ValueError("another")
    assert not list(tmp_path.iterdir())


def test_a_name_that_no_disk_takes_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(ResourceError, match="File name too long"),
        staged_folder(LocalStorage(tmp_path / ("a" * 300)), "b"),
    ):
        pass
    with pytest.raises(ResourceError, match="File name too long"), exclusive(LocalStorage(tmp_path / ("a" * 300)), "b"):
        pass


def test_what_was_published_before_is_replaced_whole(storage: Storage, tmp_path: Path) -> None:
    for names in (["a", "b/c"], ["a", "d"]):
        folder = tmp_path / "-".join(names).replace("/", "-")
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)
        publish_folder(storage, folder, "artifacts/x/1/model")
        found = {key: storage.read(key) for key in storage.list("artifacts/x/1")}
        told = {key.removeprefix("artifacts/x/1/model/"): blob.content for key, blob in found.items() if blob}
        assert told == {name: name.encode() for name in names}


def test_runs_that_publish_the_same_at_once_leave_it_whole(tmp_path: Path) -> None:
    """Two recipes import one base model: what the first has published, its workers read while the second publishes it again."""
    storage = LocalStorage(tmp_path)

    def publish(_: int) -> None:
        with staged_folder(storage, "artifacts/x/1/model") as staging:
            for number in range(20):
                (staging / str(number)).write_bytes(b"weights")

    publish(0)
    last = tmp_path / "artifacts" / "x" / "1" / "model" / "19"
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(publish, turn) for turn in range(100)]:
            done.result()
    assert last.read_bytes() == b"weights"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifacts"]


def test_what_a_killed_process_was_filling_is_removed(
    s3_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERINUS_HOME", str(tmp_path))
    cache, bucket = tmp_path / "cache", open_storage(s3_uri)
    for name in (".tmp-old", ".tmp-new"):
        (cache / name / "inside").mkdir(parents=True)
    os.utime(cache / ".tmp-old", (0, 0))
    with staged_folder(bucket, "artifacts/x/1/model") as mine:
        os.utime(mine, (0, 0))
        with staged_folder(bucket, "artifacts/x/2/model"):
            assert mine.is_dir()
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [".tmp-new"]
