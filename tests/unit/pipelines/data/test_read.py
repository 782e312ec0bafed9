from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.config import SourceConfig
from pipelines.data.document import Document
from pipelines.data.inventory import inventory
from pipelines.data.read import read_documents

LIMIT = 1_000


def read(path: Path, limit: int = LIMIT, **options: str | None) -> list[Document]:
    (file,) = inventory([SourceConfig(path=str(path), **options)])
    return list(read_documents(file, limit))


def written(tmp_path: Path, name: str, content: bytes | str) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    content = '{"text": "one"}\n\n{"text": "zwei ü", "id": 7}\r\n'
    path = written(tmp_path, name, content)
    expected = [
        Document(f"{name}#1", "one", name, 1, span=(0, 16)),
        Document(f"{name}#3", "zwei ü", name, 3, span=(17, 47)),
    ]
    assert json.loads(content.encode()[17:47]) == {"text": "zwei ü", "id": 7}
    assert read(path) == expected
    assert [document.id for document in read(path, id_field="id")] == [f"{name}#1", "7"]


def test_json_array_and_object(tmp_path: Path) -> None:
    array = written(tmp_path, "a.json", '[\n {"text": "one"},\n {"text": "two"}\n]')
    assert [(d.id, d.text, d.position) for d in read(array)] == [("a.json#1", "one", 1), ("a.json#2", "two", 2)]
    one = written(tmp_path, "b.json", '{\n "text": "only"\n}')
    assert [(d.text, d.reason) for d in read(one)] == [("only", None)]


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        (b'{"text": "torn', "broken_json", "Unterminated string"),
        (b"not json", "broken_json", "Expecting value"),
        (b'{"text": "\xff"}', "broken_json", "not UTF-8"),
        (b"[" * 100_000, "broken_json", "nested too deeply"),
        (b'{"body": "x"}', "missing_text", "'body'"),
        (b'{"text": 42}', "missing_text", "no text"),
        (b'{"text": null}', "missing_text", "no text"),
        (b'["text"]', "missing_text", "list"),
    ],
)
def test_bad_line_is_excluded_with_its_number_and_the_others_are_read(
    tmp_path: Path, line: bytes, reason: str, detail: str
) -> None:
    path = written(tmp_path, "a.jsonl", b'{"text": "before"}\n' + line + b'\n{"text": "after"}')
    before, bad, after = read(path, limit=200_000)
    assert (before.text, after.text) == ("before", "after")
    assert (bad.reason, bad.position) == (reason, 2)
    assert bad.text == line.decode("utf-8", "replace")  # never lost
    if detail != "nested too deeply":  # newer interpreters have other words for it
        assert detail in bad.detail


def test_broken_json_file_is_one_exclusion(tmp_path: Path) -> None:
    content = '[\n {"text": "one"},\n {"text": \n'
    (document,) = read(written(tmp_path, "a.json", content))
    assert (document.reason, document.text) == ("broken_json", content)


def test_lone_surrogates_become_storable(tmp_path: Path) -> None:
    (document,) = read(written(tmp_path, "a.jsonl", r'{"text": "a\ud800b \ud83d\ude00"}'))
    assert document.text == "a\ufffdb 😀"
    pa.array([document.text]).validate(full=True)


def test_long_line_is_skipped_unread_and_leaves_its_place(tmp_path: Path) -> None:
    first = b'{"text": "first"}\n'
    long = b'{"text": "' + b"x" * 5_000 + b'"}\n'
    *_, last = documents = read(written(tmp_path, "a.jsonl", first + long + b'{"text": "last"}\n'))
    assert [d.reason for d in documents] == [None, "too_large", None]
    assert (last.text, last.position) == ("last", 3)
    assert documents[1].text == ""
    assert f"{len(long)} bytes" in documents[1].detail
    assert f"at byte {len(first)} of a.jsonl" in documents[1].detail


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.txt", "a.txt.gz", "a.html"])
def test_fifty_megabytes_in_one_line_take_little_memory(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name, b'{"text": "' + b"x" * 50_000_000 + b'"}')
    (file,) = inventory([SourceConfig(path=str(path))])
    tracemalloc.start()
    try:
        documents = list(read_documents(file, 1_000_000))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [document.reason for document in documents] == ["too_large"]
    assert peak_bytes < 10_000_000


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("plain ü".encode(), "plain ü"),
        (b"\xef\xbb\xbfwith mark", "with mark"),
        ("sixteen ü".encode("utf-16"), "sixteen ü"),
        ("caf\u00e9 \u20ac".encode("windows-1252"), "café €"),
        (b"", ""),
        (b"\x1b[1mescape\x1b[0m", "\x1b[1mescape\x1b[0m"),
    ],
)
def test_text_in_several_encodings(tmp_path: Path, content: bytes, text: str) -> None:
    for name in ("a.txt", "a.md.gz"):
        assert read(written(tmp_path, name, content)) == [Document(name, text, name, 1, span=(0, len(content)))]


@pytest.mark.parametrize("name", ["junk.txt", "junk.html"])
def test_binary_junk_is_excluded(tmp_path: Path, name: str) -> None:
    (document,) = read(written(tmp_path, name, b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 2))
    assert (document.reason, document.text) == ("binary", "")
    assert "sha256" in document.detail


@pytest.mark.parametrize("content", [b"this is no gzip", gzip.compress(b'{"text": "a"}\n' * 9_000)[:-20]])
def test_damaged_gzip_is_excluded(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(content)
    *good, last = read(path)
    assert last.reason == "unreadable"
    assert all(document.text == "a" for document in good)


def test_html_gives_the_article_alone(tmp_path: Path) -> None:
    body = "".join(
        f"<p>Paragraph {i} has several words, so that it is taken for text of the article.</p>" for i in range(5)
    )
    page = f"<html><body><nav><a href='/'>Home</a></nav><article><h1>Title</h1>{body}</article><footer>Imprint</footer>"
    (document,) = read(written(tmp_path, "a.html", page), limit=10_000)
    assert document.reason is None
    assert "Paragraph 3 has several words" in document.text
    assert "Imprint" not in document.text
    assert "<p>" not in document.text


def test_html_in_its_declared_encoding(tmp_path: Path) -> None:
    text = "Это статья о том, как читать страницы в старой кодировке, и она достаточно длинная, чтобы её заметили. " * 5
    page = f'<html><head><meta charset="koi8-r"></head><body><article><p>{text}</p></article></body></html>'
    (document,) = read(written(tmp_path, "a.html", page.encode("koi8-r")), limit=10_000)
    assert "как читать страницы" in document.text


@pytest.mark.parametrize("page", ["<html><body></body></html>", "<div>" * 20_000])
def test_html_without_an_article_keeps_the_page(tmp_path: Path, page: str) -> None:
    (document,) = read(written(tmp_path, "a.html", page), limit=1_000_000)
    assert (document.reason, document.text) == ("no_main_text", page)


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": ["one", None, "x" * 2_000], "name": ["a", "b", "c"]}), path)
    documents = read(path, text_field="body", id_field="name")
    assert [(d.id, d.position, d.reason) for d in documents] == [
        ("a", 1, None),
        ("a.parquet#2", 2, "missing_text"),
        ("c", 3, "too_large"),
    ]
    assert documents[2].text == "x" * 2_000  # it was in memory anyway, so it is kept


def test_parquet_without_the_column_or_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": ["one"] * 5_000}), path)
    (document,) = read(path)
    assert (document.reason, "body" in document.detail) == ("missing_text", True)
    good = path.read_bytes()
    for damaged in (b"PAR1 junk", good[: len(good) // 2], good[:4] + b"\xff" * 40 + good[44:]):
        path.write_bytes(damaged)
        assert [d.reason for d in read(path, text_field="body")][-1:] == ["unreadable"]


def test_id_of_another_type_and_json_escapes_in_details(tmp_path: Path) -> None:
    lines = [json.dumps({"text": "a", "id": value}) for value in (1.5, ["x"], None)]
    path = written(tmp_path, "a.jsonl", "\n".join(lines))
    assert [document.id for document in read(path, id_field="id")] == ["1.5", "['x']", "a.jsonl#3"]


def test_file_that_vanished_after_it_was_listed_is_an_error(tmp_path: Path) -> None:
    path = written(tmp_path, "a.txt", "text")
    (file,) = inventory([SourceConfig(path=str(path))])
    path.unlink()
    with pytest.raises(FileNotFoundError):
        list(read_documents(file, LIMIT))
