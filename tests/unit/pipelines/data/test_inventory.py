from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from cluster.errors import InputError
from pipelines.config import SourceConfig
from pipelines.data.inventory import SourceFile, inventory


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"content of {name}")
    return folder


def found(*paths: Path | str, **options: str) -> list[SourceFile]:
    return inventory([SourceConfig(path=str(path), **options) for path in paths])


def names(*paths: Path | str) -> list[str]:
    return [file.name for file in found(*paths)]


def test_folder_is_read_recursively_in_the_order_of_names(tmp_path: Path) -> None:
    folder = write(tmp_path / "docs", "b.txt", "a/z.md", "a/b.jsonl.gz")
    assert names(folder) == ["docs/a/b.jsonl.gz", "docs/a/z.md", "docs/b.txt"]
    assert names(f"{folder}/") == names(folder)


def test_file_is_named_without_its_folder(tmp_path: Path) -> None:
    (file,) = found(write(tmp_path, "a.txt") / "a.txt")
    content = b"content of a.txt"
    assert (file.name, file.format, file.num_bytes) == ("a.txt", "text", len(content))
    assert file.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.txt", ["docs/a.txt", "docs/b.txt"]),
        ("**/*.txt", ["docs/a.txt", "docs/b.txt", "docs/sub/c.txt"]),
        ("s*/?.txt", ["sub/c.txt"]),
        ("[!a].txt", ["docs/b.txt"]),
        ("[a-b].*", ["docs/a.txt", "docs/b.txt"]),
    ],
)
def test_glob(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    folder = write(tmp_path / "docs", "a.txt", "b.txt", "sub/c.txt", "d.md")
    assert [name.removeprefix("docs/") for name in names(f"{folder}/{pattern}")] == [
        name.removeprefix("docs/") for name in expected
    ]


def test_existing_name_with_brackets_is_no_glob(tmp_path: Path) -> None:
    assert names(write(tmp_path, "notes [old].txt") / "notes [old].txt") == ["notes [old].txt"]


def test_two_sources_of_the_same_name_stay_apart(tmp_path: Path) -> None:
    one, two = write(tmp_path / "1" / "docs", "a.txt"), write(tmp_path / "2" / "docs", "a.txt")
    assert names(one, two) == ["docs/a.txt", "docs-2/a.txt"]


def test_two_files_of_the_same_name_stay_apart(tmp_path: Path) -> None:
    one, two = write(tmp_path / "1", "a.txt"), write(tmp_path / "2", "a.txt")
    found = names(one / "a.txt", two / "a.txt")
    assert found[0] == "a.txt"
    assert len(set(found)) == 2


@pytest.mark.parametrize(
    ("name", "kind", "gzipped"),
    [
        ("a.jsonl", "jsonl", False),
        ("a.ndjson.gz", "jsonl", True),
        ("a.json", "json", False),
        ("a.parquet", "parquet", False),
        ("A.TXT", "text", False),
        ("a.rst.gz", "text", True),
        ("a.htm", "html", False),
    ],
)
def test_ending_tells_the_format(tmp_path: Path, name: str, kind: str, gzipped: bool) -> None:
    (file,) = found(write(tmp_path, name))
    assert (file.format, file.gzipped, file.reason) == (kind, gzipped, None)


@pytest.mark.parametrize("name", ["a.png", "a", ".hidden", "a.parquet.gz"])
def test_other_endings_are_listed_as_unknown(tmp_path: Path, name: str) -> None:
    (file,) = found(write(tmp_path, name))
    assert (file.format, file.reason) == (None, "unknown_format")
    assert len(file.sha256) == 64


def test_given_format_wins_over_the_ending(tmp_path: Path) -> None:
    (file,) = found(write(tmp_path, "a.dat"), format="jsonl")
    assert (file.format, file.reason) == ("jsonl", None)


def test_what_cannot_be_read_is_listed_with_its_reason(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")  # opening it would wait for ever
    (tmp_path / "memory.txt").symlink_to("/proc/self/mem")  # a file whose first byte cannot be read, for root too
    files = found(tmp_path)
    assert [file.reason for file in files] == ["unreadable"] * 2
    assert all(file.detail for file in files)


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("missing", "no such file or folder"),
        ("empty", "empty folder"),
        ("empty/*.txt", "no file matches"),
        ("missing/*.txt", "no such file or folder"),
        ("gs://bucket/folder", "unknown kind of source"),
    ],
)
def test_source_without_files_is_one_clear_error(tmp_path: Path, path: str, what: str) -> None:
    (tmp_path / "empty" / "folders" / "only").mkdir(parents=True)
    with pytest.raises(InputError) as caught:
        found(path if "://" in path else f"{tmp_path}/{path}")
    assert what in caught.value.found
    assert path in caught.value.where
    assert caught.value.remedy


def test_a_number_that_another_source_is_called_by_is_passed_over(tmp_path: Path) -> None:
    folders = [write(tmp_path / name, "a.txt") for name in ("x/docs", "docs-2", "y/docs")]
    assert names(*folders) == ["docs/a.txt", "docs-2/a.txt", "docs-3/a.txt"]


@pytest.mark.parametrize("of", ["a.jsonl", "a.parquet", "a.warc", "a.json", "a.txt.gz"])
def test_a_file_called_as_a_document_of_another_one_is_refused(tmp_path: Path, of: str) -> None:
    folder = write(tmp_path / "docs", of, f"{of}#12")
    with pytest.raises(InputError, match=f"docs/{of}#12 is also the id of a document in docs/{of}") as refused:
        found(folder)
    assert refused.value.where == str(folder / f"{of}#12")


def test_other_names_with_a_number_sign_stay_as_they_are(tmp_path: Path) -> None:
    folder = write(tmp_path / "docs", "a.jsonl", "a.jsonl#01", "a.jsonl#1.txt", "b.jsonl#1", "c.txt", "c.txt#1", "#1")
    assert names(folder) == [f"docs/{name}" for name in sorted(os.listdir(folder))]
