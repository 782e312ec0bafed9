"""Whatever dies while documents are cleaned, and however ill the storage is: the result is that of the undisturbed run."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import psutil
import pytest

from cluster.artifacts import Dataset
from cluster.errors import ResourceError
from cluster.storage import LocalStorage, open_storage
from pipelines.config import DataConfig, DedupConfig
from pipelines.data import clean as stage
from pipelines.data.clean import clean
from tests.chaos.flaky_s3 import flaky_s3
from tests.chaos.serving_world import SecondNode
from tests.conftest import REPOSITORY
from tests.unit.pipelines.data import world

pytestmark = [pytest.mark.integration, pytest.mark.chaos, pytest.mark.long]

PATIENCE_S = 120.0
NUM_FILES, FILE_DOCUMENTS = 40, 60
BLOCK_BYTES = 400_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,400 documents of paragraphs of CPython's language reference in 40 files, 10 MB; some are copies of others."""
    folder, rng = tmp_path_factory.mktemp("input") / "docs", random.Random(0)
    folder.mkdir()
    paragraphs = [part for text in topics.values() for part in text.split("\n\n") if len(part) > 80]
    for number in range(NUM_FILES):
        texts = ["\n\n".join(rng.choices(paragraphs, k=rng.randint(2, 20))) for _ in range(FILE_DOCUMENTS)]
        texts[1] = texts[0]
        lines = [json.dumps({"text": text}) + "\n" for text in texts]
        (folder / f"{number:02}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def config(folder: Path) -> DataConfig:
    """Lines that stand everywhere go: what is compared for that must outlast a node as well."""
    return world.config(folder, documents_per_shard=200, dedup=DedupConfig(lines={"max_occurrences": 25}))


@pytest.fixture(scope="module")
def undisturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    made = world.make(LocalStorage(tmp_path_factory.mktemp("undisturbed")), config(folder))
    assert made.num_documents == NUM_FILES * FILE_DOCUMENTS == made.num_kept + made.num_excluded
    assert made.num_excluded_by_reason["exact_duplicate"] > NUM_FILES / 2
    assert made.repeated is not None
    assert made.repeated.num_lines > 100
    return made


@pytest.fixture(params=[BLOCK_BYTES, 1 << 30], ids=["ray-data", "one-task"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "BLOCK_BYTES", request.param)


def before(monkeypatch: pytest.MonkeyPatch, name: str, strike: Callable[[], object]) -> None:
    """Strike once, just before the stage calls that function of its own."""
    function, struck = getattr(stage, name), list[bool]()

    def called(*args: Any, **kwargs: Any) -> Any:
        if not struck:
            struck.append(True)
            strike()
        return function(*args, **kwargs)

    monkeypatch.setattr(stage, name, called)


def eventually(what: Callable[[], Any], name: str) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert time.monotonic() < deadline, f"{name} did not come"
        time.sleep(0.01)
    return found


def working(processes: list[psutil.Process], *names: str) -> list[psutil.Process]:
    """Ray's workers that run one of these functions now."""
    found = []
    for process in processes:
        try:
            title = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if title.startswith("ray::") and any(name in title for name in names):
            found.append(process)
    return found


READING = ("judged", "MapBatches")


def kill_one_reading(killed: list[int]) -> None:
    found = eventually(lambda: working(psutil.Process().children(recursive=True), *READING), "a worker that reads")
    found[0].kill()
    killed.append(found[0].pid)


@pytest.mark.usefixtures("ray_cluster", "way")
def test_a_killed_worker(folder: Path, undisturbed: Dataset, storage: LocalStorage) -> None:
    killed = list[int]()
    killer = threading.Thread(target=kill_one_reading, args=(killed,))
    killer.start()
    made = clean(config(folder), storage)
    killer.join()
    assert len(killed) == 1  # what is asserted in a thread is told to nobody
    assert made.digest == undisturbed.digest


@pytest.fixture
def second_node(ray_cluster: str) -> Iterator[SecondNode]:
    node = SecondNode()
    yield node
    node.close()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("moment", ["_write", "settle", "_write_shards"])
def test_a_killed_node(
    folder: Path,
    undisturbed: Dataset,
    storage: LocalStorage,
    second_node: SecondNode,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    killed = list[int]()
    before(monkeypatch, moment, lambda: killed.append(second_node.kill()))
    made = clean(config(folder), storage)
    assert killed[0] > 1
    assert made.digest == undisturbed.digest


def command(storage: object, folder: object, block_bytes: int) -> list[str]:
    return [sys.executable, "-m", "tests.chaos.clean_driver", str(storage), str(folder), str(block_bytes)]


def drive(storage: object, folder: object, block_bytes: int, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(storage, folder, block_bytes), cwd=REPOSITORY, capture_output=True, text=True, timeout=900, **more
    )


def start(storage: LocalStorage, folder: Path) -> subprocess.Popen[bytes]:
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command(storage.root, folder, BLOCK_BYTES), cwd=REPOSITORY, **quiet)


def test_a_killed_driver(folder: Path, undisturbed: Dataset, storage: LocalStorage) -> None:
    driver = start(storage, folder)
    tree = psutil.Process(driver.pid)
    eventually(lambda: working(tree.children(recursive=True), *READING), "a worker that reads")
    driver.kill()
    driver.wait()
    driver = start(storage, folder)
    eventually(lambda: [*storage.root.rglob("part-*.parquet")], "the first shard")
    driver.kill()
    driver.wait()
    assert not [*storage.root.rglob("manifest.json")]
    said = drive(storage.root, folder, BLOCK_BYTES)
    assert said.stdout.split() == [undisturbed.digest], said.stderr
    done, all_blocks = re.findall(r"going on: (\d+) of (\d+) blocks are there", said.stderr)[0]
    assert int(done) == int(all_blocks) > 9  # as the second one left them
    assert not [*storage.root.rglob("*.arrow*")]


@pytest.mark.usefixtures("ray_cluster", "way")
def test_a_full_disk(folder: Path, undisturbed: Dataset, tmp_path: Path) -> None:
    root = tmp_path / "small"
    root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o"]
    if subprocess.run([*mount, "size=1m", "serinus-test", str(root)], capture_output=True).returncode:
        pytest.skip("may not mount a small disk")
    try:
        with pytest.raises(ResourceError, match="no space left"):
            clean(config(folder), LocalStorage(root))
        subprocess.run([*mount, "remount,size=64m", "serinus-test", str(root)], check=True)
        assert clean(config(folder), LocalStorage(root)).digest == undisturbed.digest
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)


@pytest.mark.parametrize("block_bytes", [BLOCK_BYTES, 1 << 30])
def test_a_bucket_that_fails_and_falls_silent(
    folder: Path, undisturbed: Dataset, s3_uri: str, s3_server: str, block_bytes: int
) -> None:
    """One call in twenty gets a 500, one in twenty no answer; documents are read from the bucket as well."""
    storage = open_storage(s3_uri)
    for file in sorted(folder.iterdir()):
        storage.write(f"docs/{file.name}", file.read_bytes())
    with flaky_s3(s3_server, failing=0.05, silent=0.05, silence_s=600) as (address, flaky):
        environment = {**os.environ, "AWS_ENDPOINT_URL": address}
        said = drive(f"{s3_uri}/made", f"{s3_uri}/docs", block_bytes, env=environment)
    assert said.stdout.split() == [undisturbed.digest], said.stderr
    assert flaky.calls["failed"] > 0
    assert flaky.calls["silent"] > 0
    print(f"calls: {dict(flaky.calls)}")
