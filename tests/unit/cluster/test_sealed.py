"""What a bucket's objects are written with: asked of a real S3 server, on every way that writes."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.config import StrictModel, load_yaml
from cluster.errors import ConfigError, Conflict, InputError
from cluster.node_cache import local_copy
from cluster.s3 import S3Storage
from cluster.sealed import MEMORY_BYTES
from cluster.storage import ABSENT, LocalStorage, open_storage, publish_folder, remove_folder, staged_folder
from cluster.storage_config import StorageConfig, read_location

KEY = "arn:aws:kms:us-east-1:123456789012:key/11111111-2222-3333-4444-555555555555"
REPOSITORY = Path(__file__).resolve().parents[3]


def heads(storage: S3Storage) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of the bucket, and what the server says of it."""
    client = storage._client
    for item in client.list_objects_v2(Bucket=storage.bucket).get("Contents", ()):
        yield item["Key"], client.head_object(Bucket=storage.bucket, Key=item["Key"], ChecksumMode="ENABLED")


def written_everywhere(storage: S3Storage, folder: Path) -> None:
    """By each way that anything of ours takes, Ray Train's upload of a checkpoint and Parquet among them."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow.fs import LocalFileSystem, copy_files

    version = storage.write("record", b"1", expect=ABSENT)
    storage.write("record", b"2", expect=version)
    with staged_folder(storage, "staged") as staging:
        (staging / "file").write_bytes(b"staged")
    (folder / "a").mkdir()
    (folder / "a" / "large").write_bytes(b"x" * (MEMORY_BYTES + 1))
    publish_folder(storage, folder, "published")
    filesystem, path = pickle.loads(pickle.dumps(storage.filesystem("bulk")))
    filesystem.create_dir(path)
    copy_files(
        str(folder), f"{path}/checkpoint", source_filesystem=LocalFileSystem(), destination_filesystem=filesystem
    )
    pq.write_table(pa.table({"a": [1, 2]}), f"{path}/table.parquet", filesystem=filesystem)
    filesystem.copy_file(f"{path}/table.parquet", f"{path}/copied.parquet")
    assert pq.read_table(f"{path}/copied.parquet", filesystem=filesystem)["a"].to_pylist() == [1, 2]


@pytest.mark.parametrize(
    ("options", "server_side", "key", "checksum"),
    [
        ({"encryption": "s3"}, "AES256", None, "ChecksumCRC32"),
        ({"encryption": "kms", "kms_key_id": KEY, "checksum": "sha256"}, "aws:kms", KEY, "ChecksumSHA256"),
        ({"checksum": "sha256"}, None, None, "ChecksumSHA256"),
    ],
    ids=["sse-s3", "sse-kms", "sha256"],
)
def test_every_object_is_written_as_asked(
    options: dict[str, str], server_side: str | None, key: str | None, checksum: str, bucket: str, tmp_path: Path
) -> None:
    config = StorageConfig.model_validate({"uri": f"s3://{bucket}/ours", **options})
    storage = open_storage(config.location)  # as a worker opens it
    assert isinstance(storage, S3Storage)
    assert storage.config == config
    written_everywhere(storage, tmp_path)

    found = dict(heads(storage))
    assert len(found) == 6
    for name, head in found.items():
        assert head.get("ServerSideEncryption") == server_side, name
        assert head.get("SSEKMSKeyId") == key, name
        if not name.endswith("copied.parquet"):  # the server of this test keeps none of a copy, AWS does
            assert head[checksum], name


def test_what_is_sealed_reads_compares_and_goes_as_before(bucket: str, tmp_path: Path) -> None:
    storage = open_storage(StorageConfig(uri=f"s3://{bucket}/ours", encryption="kms", kms_key_id=KEY))
    written_everywhere(storage, tmp_path)

    with pytest.raises(Conflict):
        storage.write("record", b"3", expect=ABSENT)
    assert (local_copy(storage, "bulk/checkpoint") / "a" / "large").stat().st_size == MEMORY_BYTES + 1
    remove_folder(storage, "bulk")
    remove_folder(storage, "bulk")
    assert list(storage.list("")) == ["published/a/large", "record", "staged/file"]


def test_a_file_under_way_is_no_object(bucket: str) -> None:
    storage = open_storage(StorageConfig(uri=f"s3://{bucket}/ours", encryption="s3"))
    filesystem, path = storage.filesystem("file")
    with filesystem.open_output_stream(path) as stream:
        stream.write(b"half")
        assert storage.read("file") is None
    blob = storage.read("file")
    assert blob is not None
    assert blob.content == b"half"


def test_nothing_else_writes_to_buckets() -> None:
    """Who makes a client or pyarrow's filesystem of his own writes without what the recipe asks for."""
    makes = re.compile(r"S3FileSystem\(|boto3\.(client|resource|Session)|import s3fs")
    found = {
        path.relative_to(REPOSITORY).as_posix()
        for folder in ("cluster", "pipelines", "services")
        for path in (REPOSITORY / folder).rglob("*.py")
        if makes.search(path.read_text(encoding="utf-8"))
    }
    assert found == {"cluster/s3.py"}


# --- as a recipe says it ----------------------------------------------------------------------------------------------


class Held(StrictModel):
    storage: StorageConfig


def test_a_plain_location_stays_one(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("storage: store\n")
    held = load_yaml(tmp_path / "r.yaml", Held)
    assert held.model_dump(mode="json") == {"storage": str(tmp_path / "store")}
    assert isinstance(open_storage(held.storage), LocalStorage)


def test_options_survive_a_recipe_that_is_written_again() -> None:
    config = StorageConfig(uri="s3://b/f/", encryption="kms", kms_key_id=KEY, checksum="off")
    assert StorageConfig.model_validate(config.model_dump(mode="json", exclude_unset=True)) == config
    assert read_location(config.location).options == config.options


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("{uri: store, encryption: s3}", "for s3:// alone"),
        ("{uri: 's3://b/f', kms_key_id: k}", "is for `encryption: kms`"),
        ("{uri: 's3://b/f', encryption: aes}", "'s3' or 'kms'"),
        ("{uri: 's3://b/f', encryption: kms, kms_key_id: 'a b'}", "storage.kms_key_id"),
        ("{uri: 's3://b/f', checksum: md5}", "'sha256'"),
        ("{uri: 's3://b/f', encrypt: s3}", "did you mean `encryption`?"),
        ("{encryption: s3}", "add `uri:`"),
    ],
)
def test_what_a_bucket_cannot_be_asked_is_refused(written: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(f"storage: {written}\n")
    with pytest.raises(ConfigError) as refused:
        load_yaml(tmp_path / "r.yaml", Held)
    assert says in str(refused.value)
    assert "r.yaml:1: storage" in str(refused.value)


@pytest.mark.parametrize("query", ["encryption=aes", "uri=s3://x/y", "checksum=off&checksum=off", "encryption", "a=b"])
def test_a_location_says_nothing_else(query: str) -> None:
    with pytest.raises(InputError, match="is no bucket with a folder"):
        open_storage(f"s3://bucket/x?{query}")
    with pytest.raises(ValidationError):
        StorageConfig(uri="s3://b/x", encryption="aes")
