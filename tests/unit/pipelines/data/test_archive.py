from __future__ import annotations

import gzip
import random
import tracemalloc
import zlib
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cluster.artifacts import Record
from cluster.storage import LocalStorage
from pipelines.config import SourceConfig
from pipelines.data.document import Document
from pipelines.data.forget import forget
from pipelines.data.inventory import inventory
from pipelines.data.read import read_documents
from pipelines.data.trace import trace
from tests.conftest import SHARED_DATA
from tests.unit.pipelines.data.world import TEXTS, config, make

LIMIT = 20_000
ARTICLE = "".join(
    f"<p>Paragraph {i} has several words, so that it is taken for text of the article.</p>" for i in range(5)
)
PAGE = f"<html><body><nav>Home</nav><article>{ARTICLE}</article></body></html>".encode()
INFO = b"WARC/1.0\r\nWARC-Type: warcinfo\r\nContent-Length: 5\r\n\r\nabout\r\n\r\n"


def http(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", *(headers or ("Content-Type: text/html",)), "", ""]
    return "\r\n".join(lines).encode() + body


def record(
    content: bytes, kind: str = "response", length: object = None, content_type: str = "application/http"
) -> bytes:
    headers = {
        "WARC-Type": kind, "WARC-Record-ID": "<urn:uuid:1>", "WARC-Target-URI": "http://example.org/a b",
        "Content-Type": content_type, "Content-Length": len(content) if length is None else length,
    }  # fmt: skip
    return (
        b"WARC/1.0\r\n"
        + "".join(f"{k}: {v}\r\n" for k, v in headers.items()).encode()
        + b"\r\n"
        + content
        + b"\r\n\r\n"
    )


def wet(text: str) -> bytes:
    return record(text.encode(), "conversion", content_type="text/plain")


def arc(body: bytes, length: int | str | None = None) -> bytes:
    return (
        f"http://example.org/ 127.0.0.1 20140216050221 text/html {len(body) if length is None else length}\n".encode()
        + body
        + b"\n"
    )


def read(path: Path, limit: int = LIMIT) -> list[Document]:
    (file,) = inventory([SourceConfig(path=str(path))])
    return list(read_documents(file, limit))


def written(tmp_path: Path, name: str, *records: bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(b"".join(map(gzip.compress, records)) if name.endswith(".gz") else b"".join(records))
    return path


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
def test_records_become_documents_with_their_address_and_place(tmp_path: Path, name: str) -> None:
    records = [INFO, record(b"GET /", "request"), record(http(PAGE)), wet("zwei ü"), record(b"{}", "metadata")]
    path = written(tmp_path, name, *records)
    page, text = read(path)
    assert (page.id, page.position, page.origin) == (f"{name}#3", 3, "http://example.org/a%20b <urn:uuid:1>")
    assert "Paragraph 3 has several words" in page.text
    assert "Home" not in page.text
    assert (text.id, text.text, text.reason) == (f"{name}#4", "zwei ü", None)
    for document, whole in ((page, records[2]), (text, records[3])):
        assert document.span is not None
        part = path.read_bytes()[slice(*document.span)]
        assert (gzip.decompress(part) if name.endswith(".gz") else part) == whole


@pytest.mark.parametrize("name", ["a.arc", "a.arc.gz"])
def test_arc(tmp_path: Path, name: str) -> None:
    about = b"1 0 Crawler\nURL IP-address Archive-date Content-type Archive-length\n"
    header = f"filedesc://a.arc 127.0.0.1 20140216050221 text/plain {len(about)}\n".encode() + about + b"\n"
    (page,) = read(written(tmp_path, name, header, arc(http(PAGE))))
    assert (page.position, page.origin, page.reason) == (2, "http://example.org/", None)


def test_one_gzip_member_around_all_records_has_no_places(tmp_path: Path) -> None:
    documents = read(written(tmp_path, "a.wet.gz", INFO + wet("one") + wet("two")))
    assert [(d.id, d.text) for d in documents] == [("a.wet.gz#2", "one"), ("a.wet.gz#3", "two")]
    assert documents[0].span is None


CHUNKED = b"%x\r\n" % len(PAGE) + PAGE + b"\r\n0\r\n\r\n"
RAW_DEFLATE = zlib.compress(PAGE)[2:-4]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (CHUNKED, ["Transfer-Encoding: chunked"]),
        (gzip.compress(PAGE), ["Content-Encoding: gzip"]),
        (gzip.compress(PAGE[:99]) + gzip.compress(PAGE[99:]), ["Content-Encoding: gzip"]),
        (gzip.compress(PAGE)[:-2], ["Content-Encoding: gzip"]),  # nothing of the text is missing
        (PAGE, ["Content-Encoding: gzip"]),  # the crawler unpacked it
        (zlib.compress(PAGE), ["Content-Encoding: deflate"]),
        (RAW_DEFLATE, ["Content-Encoding: deflate"]),
    ],
)
def test_bodies_as_servers_send_them(tmp_path: Path, body: bytes, headers: list[str]) -> None:
    (page,) = read(written(tmp_path, "a.warc.gz", record(http(body, "Content-Type: text/html", *headers))))
    assert (page.reason, "Paragraph 3" in page.text) == (None, True)


def test_charset_of_the_header(tmp_path: Path) -> None:
    body = http("слова в старой кодировке".encode("koi8-r"), "Content-Type: text/plain; charset=KOI8-R")
    assert read(written(tmp_path, "a.warc", record(body)))[0].text == "слова в старой кодировке"


FORGED = b"\x1f\x8b\xff" + b"\n" + wet("a record that a body only plays")


@pytest.mark.parametrize(
    ("bad", "reason", "detail"),
    [
        (record(http(b"gone", status="404 Not Found")), "http_status", "404"),
        (record(http(b"\x89PNG", "Content-Type: image/png")), "unknown_format", "image/png"),
        (record(http(bytes(range(32)) * 9, "Content-Type: text/plain")), "binary", "no text"),
        (record(http(b"<p></p>")), "no_main_text", "no article"),
        (record(http(gzip.compress(PAGE)[:-40], "Content-Encoding: gzip")), "unreadable", "cut off"),
        (record(http(zlib.compress(PAGE)[:-40], "Content-Encoding: deflate")), "unreadable", "cut off"),
        (record(http(FORGED, "Content-Encoding: gzip")), "unreadable", "cannot be unpacked"),
        (record(http(b"x" * 30_000)), "too_large", "20000 bytes"),
        (record(b"x", length="abc"), "unreadable", "its length is abc"),
        (record(b"x", length=-1), "unreadable", "its length is -1"),
        (record(b"no type", kind=""), "unreadable", "broken record"),
        (record(http(b"x" * 99), length=9), "http_status", "nothing"),  # the rest of it is the broken record behind it
        (b"WARC/9.9\r\nnonsense\r\n\r\n", "unreadable", "broken record"),
        (b"WARC/1.0\r\n" + b"X: " + b"x" * 2_000_000 + b"\r\n\r\n", "unreadable", "more than is allowed"),
        (b"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: 9\r\n\r\nHTTP/1.0 \r\n\r\n", "unreadable", "broken record"),
        (b"WARC/1.0\r\nContent-Length: " + b"9" * 5_000 + b"\r\n\r\n", "unreadable", "broken record"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
def test_bad_record_is_told_and_the_others_are_read(
    tmp_path: Path, name: str, bad: bytes, reason: str, detail: str
) -> None:
    found = read(written(tmp_path, name, wet("before"), bad, wet("after")))
    first, second, *_, last = found
    assert "a record that a body only plays" not in {document.text for document in found}
    assert (first.text, last.text) == ("before", "after")
    assert (second.position, second.reason) == (2, reason)
    assert detail in second.detail


def test_cut_off_archive_keeps_what_was_whole(tmp_path: Path) -> None:
    for name in ("a.warc", "a.warc.gz"):
        path = written(tmp_path, name, wet("whole"), wet("not whole"))
        path.write_bytes(path.read_bytes()[:-18])
        assert [(d.text, d.reason) for d in read(path)] == [("whole", None), ("", "unreadable")]


def test_damaged_gzip_member_costs_its_record_alone(tmp_path: Path) -> None:
    members = [gzip.compress(wet(f"number {i} " * 50)) for i in range(3)]
    members[1] = members[1][:60] + bytes(20) + members[1][80:]
    path = tmp_path / "a.wet.gz"
    path.write_bytes(b"".join(members))
    assert [d.reason for d in read(path)] == [None, "unreadable", None]


@pytest.mark.parametrize("name", ["e.warc", "e.warc.gz", "e.wat"])
def test_archive_without_documents_is_named(tmp_path: Path, name: str) -> None:
    (document,) = read(written(tmp_path, name, *([record(b"{}", "metadata")] if name == "e.wat" else [])))
    assert (document.id, document.reason) == (f"{name}#1", "missing_text")


BOMB = 60_000_000


@pytest.mark.parametrize(
    ("name", "bomb"),
    [
        ("record.warc.gz", [record(b"x" * BOMB, "conversion", content_type="text/plain")]),
        ("header.warc.gz", [b"WARC/1.0\r\nX: " + b"x" * BOMB]),
        ("body.warc", [record(http(gzip.compress(b"x" * BOMB), "Content-Encoding: gzip"))]),
        ("chunk.warc", [record(http(b"7fffffff\r\n" + b"x" * BOMB, "Transfer-Encoding: chunked"))]),
        ("empty-lines.warc.gz", [b"\r\n" * (BOMB // 2)]),
    ],
)
def test_bombs_take_little_memory(tmp_path: Path, name: str, bomb: list[bytes]) -> None:
    path = written(tmp_path, name, wet("before"), *bomb, wet("after"))
    (file,) = inventory([SourceConfig(path=str(path))])
    tracemalloc.start()
    try:
        documents = list(read_documents(file, LIMIT))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [d.text for d in documents if not d.reason] == ["before", "after"]
    assert [d.reason for d in documents if d.reason] == {"header": ["unreadable"], "empty-lines": []}.get(
        name.partition(".")[0], ["too_large"]
    )
    assert peak_bytes < 10_000_000


def test_fuzzed_archives_end_and_account_for_what_they_hold(tmp_path: Path) -> None:
    rng = random.Random(7)
    parts = [
        INFO,
        record(http(PAGE)),
        wet("text"),
        record(http(CHUNKED, "Transfer-Encoding: chunked")),
        arc(http(PAGE)),
    ]
    for i in range(120):
        name = f"f{i}.{'warc.gz' if i % 2 else 'warc'}"
        path = written(tmp_path, name, *parts)
        data = bytearray(path.read_bytes())
        for _ in range(rng.randint(1, 20)):
            at = rng.randrange(len(data))
            data[at : at + rng.choice((0, 1, 30))] = rng.randbytes(rng.choice((0, 1, 30)))
        path.write_bytes(data[: rng.randint(len(data) // 2, len(data))])
        documents = read(path)
        assert documents
        assert len({document.id for document in documents}) == len(documents)
        assert all(document.reason is None or document.detail for document in documents)


def test_trace_leads_to_the_address_and_older_records_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    written(tmp_path / "in", "a.wet", *(wet(text) for text in TEXTS))
    storage = LocalStorage(tmp_path / "storage")
    dataset = make(storage, config(tmp_path / "in"))
    (fate,) = trace(storage, "in/a.wet#2").fates
    assert (fate.origin, fate.recorded) == ("http://example.org/a%20b <urn:uuid:1>", True)
    for path in (storage.root / Record(key=dataset.key).location).rglob("*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns("origin"), path)  # as before there was one
    (fate,) = trace(storage, "in/a.wet#2").fates
    assert (fate.origin, fate.position) == ("", 2)
    made = forget(storage, "in/a.wet#2", None, "me", datetime(2026, 1, 1, tzinfo=UTC)).now
    assert trace(storage, "in/a.wet#2").fates[0].version == made


@pytest.mark.skipif(not (SHARED_DATA / "warc").exists(), reason="no ../shared/data")
def test_real_archives() -> None:
    """Common Crawl's, wget's, warcio's and AUT's, some of them broken on purpose."""
    paths = [
        path for path in sorted((SHARED_DATA / "warc").glob("*/*")) if path.stat().st_size < 1_000_000
    ]  # one is larger
    found = {path.name: read(path, 10_000_000) for path in paths}
    assert len(found) == 21
    kept = {name: sum(document.reason is None for document in documents) for name, documents in found.items()}
    for name in (
        "example.warc",
        "example.warc.gz",
        "whirlwind.warc",
        "whirlwind.warc.gz",
        "whirlwind.warc.wet",
        "example.arc.gz",
        "example-trunc.warc",
        "example-space-in-url.arc",
    ):
        assert kept[name] == 1, name
    assert kept["example-wget-bad-target-uri.warc.gz"] == 3
    assert [document.reason for document in found["bad.arc"]] == ["unreadable", "http_status", "unreadable"]
