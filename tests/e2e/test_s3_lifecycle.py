"""A bucket as the only storage, from raw text to the promoted canary, on a server that fails or delays a tenth of its calls."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest

from cluster import registry
from cluster.storage import open_storage
from tests.chaos.flaky_s3 import flaky_s3
from tests.e2e.small_lifecycle import NAME, Lifecycle, made, write_topics

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]

FAILING, SLOW, SLOW_S = 0.05, 0.05, 2.0


@pytest.fixture
def sources(s3_uri: str, s3_server: str, tmp_path: Path) -> str:
    """Raw documents in the bucket, beside the storage."""
    bucket, client = urlsplit(s3_uri).netloc, boto3.client("s3", endpoint_url=s3_server)
    for path in write_topics(tmp_path / "topics").iterdir():
        client.upload_file(str(path), bucket, f"raw/{path.name}")
    return f"s3://{bucket}/raw"


@pytest.fixture
def unwell(s3_uri: str, s3_server: str, sources: str, tiny_model: Path, tmp_path: Path) -> Iterator[Lifecycle]:
    with flaky_s3(s3_server, failing=FAILING, silent=SLOW, silence_s=SLOW_S) as (address, server):
        yield Lifecycle(tmp_path / "unwell", s3_uri, sources, tiny_model, {"AWS_ENDPOINT_URL": address})
        told = dict(server.calls)
        print(f"calls: {told}")
        assert told["failed"] > 0.02 * sum(told.values()), told
        assert told["silent"] > 0.02 * sum(told.values()), told


def test_from_raw_text_to_the_promoted_canary(unwell: Lifecycle, s3_uri: str) -> None:
    with unwell.up():
        unwell.serinus("run", str(unwell.recipe))
        storage = open_storage(s3_uri)
        candidate = registry.aliases(storage, NAME)["candidate"]
        answers = unwell.promoted()
        lineage = unwell.serinus("lineage", "stable", "--recipe", str(unwell.recipe))
    assert registry.aliases(storage, NAME)["stable"] == candidate
    assert [answer for answer in answers if answer["status"] != 200] == []
    assert {answer["revision"] for answer in answers} == {candidate, registry.aliases(storage, NAME)["previous"]}
    assert "raw/" in lineage
    assert not [path for path in unwell.folder.rglob("manifest.json") if "cache" not in path.parts], "a second storage"


@pytest.mark.long
def test_what_is_made_is_what_a_well_server_keeps(
    unwell: Lifecycle, s3_uri: str, sources: str, tiny_model: Path, tmp_path: Path
) -> None:
    well = Lifecycle(tmp_path / "well", f"{s3_uri}-well", sources, tiny_model)
    for lifecycle in (unwell, well):
        lifecycle.serinus("run", str(lifecycle.recipe))
    found, expected = (made(open_storage(lifecycle.storage)) for lifecycle in (unwell, well))
    assert found == expected
    kinds = {name.split()[0] for name in found.files}
    assert {"dataset", "model", "checkpoint", "quantized", "evaluation"} <= kinds
    assert len(found.scores) == 9  # three models, three figures
