"""Two hundred files that no reader likes, the same ones each time; each with what must come of it where that is known."""

from __future__ import annotations

import gzip
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.unit.pipelines.data import pdf_files

LIMIT = 20_000
"""`max_document_bytes` for these files: the long lines are longer, as 100 MB are longer than 10."""

GOOD = [json.dumps({"text": f"the canary sang {i} times ü 鳥", "id": i}, ensure_ascii=False) for i in range(12)]
LINES = "\n".join(GOOD).encode()


def write_hostile(folder: Path) -> dict[str, int | None]:
    """Name below `folder` -> how many documents and exclusions come of it; None where any number will do."""
    made: dict[str, int | None] = {}
    for name, content, expected in (*_spelt(), *_lengths(), *_fuzzed(), *_archives_of_air(), *_pages(), *_pdfs()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        made[name] = expected
    for name, table in _columns():
        pq.write_table(table, folder / name)
        made[name] = len(table)
    made |= _torn_parquet(folder) | _odd_entries(folder)
    return made


def _spelt() -> Iterator[tuple[str, bytes, int | None]]:
    """JSON and text in spellings that a parser stumbles over: one line each."""
    lines = [
        b'{"text": "\xff\xfe"}', b'{"text": "a\x00b"}', b'{"text": "a\\u0000b"}', b'{"text": "\\ud800"}',
        b'{"text": "\\udc00\\ud800"}', b'{"text": NaN}', b'{"text": "x", "n": NaN, "m": -Infinity}',
        b'{"text": "x", "n": 1e400}', b'{"text": "x", "n": ' + b"9" * 5_000 + b"}", b'{"text": ""}', b'{"text": " "}',
        b'{"text": {"text": "x"}}', b'{"text": ["x"]}', b'{"text": true}', b'{"": "x"}', b"{}", b"[]", b"null", b'"x"',
        b"0", b"-", b"{", b"}", b"\x00" * 50, b"\xef\xbb\xbf" + GOOD[0].encode(), b'{"text": "x"} {"text": "y"}',
        b'{"text": "x", "text": 1}', b"{'text': 'x'}", b'{"text": "\\x"}', b'{"text": "a\tb"}', b"[" * 9_000,
        b'{"a":' * 3_000 + b"1" + b"}" * 3_000, b'{"text": "\xed\xa0\x80"}', b'{"text": "\xc0\xaf"}',
        ('{"text": "' + "\u202e\u200b\ufeff\u0300" * 99 + '"}').encode(), b'{"\\ud800": 1}', b'{"text": "x", "id": "\\udfff"}',
    ]  # fmt: skip
    for i, line in enumerate(lines):
        yield f"line-{i:02d}.jsonl", LINES + b"\n" + line + b"\n" + GOOD[0].encode(), len(GOOD) + 2
        yield f"value-{i:02d}.json", line, None
    yield "mixed-ends.jsonl", b"\r\n".join(line.encode() for line in GOOD) + b"\n\r\n\n" + LINES, 2 * len(GOOD)
    yield "old-mac.jsonl", LINES.replace(b"\n", b"\r"), 1
    yield "sixteen.jsonl", LINES.decode().encode("utf-16"), None
    yield "sixteen.txt", "ü鳥".encode("utf-16-be") + b"\x00", 1
    yield "half.txt", b"\xff\xfe\x00", 1
    yield "nul.txt", b"some words\x00 and more" * 3, 1
    yield "bell.md", bytes(range(256)), 1
    yield "deep.json", b"[" * 970 + b"]" * 970, 1  # at the interpreter's own limit
    for name in ("empty.jsonl", "blank.jsonl", "empty.json", "empty.txt", "empty.html", "empty.parquet"):
        yield name, b"\n \n\r\n" if name.startswith("blank") else b"", None


def _lengths() -> Iterator[tuple[str, bytes, int | None]]:
    for size in (LIMIT - 1, LIMIT, LIMIT + 1, 1 << 20, (1 << 20) + LIMIT + 1, 3_000_000):
        line = b'{"text": "' + b"x" * size + b'"}'
        for end in (b"", b"\n", b"\r\n" + LINES):
            yield f"long-{size}-{len(end)}.jsonl", line + end, 1 + (len(GOOD) if len(end) > 2 else 0)
    yield "long.txt", b"x" * 3_000_000, 1
    yield "long.html", b"<p>" * 1_000_000, 1
    yield "newlines.jsonl", b"\n" * 100_000 + LINES, len(GOOD)


def _fuzzed() -> Iterator[tuple[str, bytes, int | None]]:
    """Bytes changed, taken out, doubled, and the end cut off."""
    rng = random.Random(4)
    packed = gzip.compress(LINES * 20, mtime=0)
    for i in range(60):
        data = bytearray(packed if i % 3 == 2 else LINES)
        for _ in range(rng.randint(1, 12)):
            at = rng.randrange(len(data))
            data[at : at + rng.choice((0, 1, 1, 9))] = rng.randbytes(rng.choice((0, 1, 1, 7)))
        name = f"fuzz-{i:02d}.jsonl.gz" if i % 3 == 2 else f"fuzz-{i:02d}.{'jsonl' if i % 3 else 'json'}"
        yield name, bytes(data[: rng.randint(1, len(data))] if i % 2 else data), None


def _archives_of_air() -> Iterator[tuple[str, bytes, int | None]]:
    """A thousand times larger unpacked."""
    air = gzip.compress(b" " * 8_000_000, mtime=0)
    for ending in ("jsonl", "txt", "html", "md"):
        yield f"air.{ending}.gz", air, 1
    yield "air-in-a-line.jsonl.gz", gzip.compress(LINES + b'\n{"text": "' + b"x" * 8_000_000 + b'"}\n' + LINES), 25
    yield "air-in-json.json.gz", gzip.compress(b'{"text": "' + b"x" * 1_000_000 + b'"}'), 1
    yield "packed-twice.jsonl.gz", gzip.compress(gzip.compress(LINES)), None
    yield "members.jsonl.gz", gzip.compress(LINES + b"\n") * 3, 3 * len(GOOD)
    yield "tail.jsonl.gz", gzip.compress(LINES + b"\n") + b"not gzip", len(GOOD) + 1
    yield "headless.jsonl.gz", b"\x1f\x8b", 1
    yield "plain.jsonl.gz", LINES, 1


def _pages() -> Iterator[tuple[str, bytes, int | None]]:
    for name in ("undefined", "idna", "punycode", "utf-7", "hex", "base64", "unicode_escape", "cp65001", "x" * 99):
        page = b'<html><meta charset="' + name.encode() + b'"><p>some \xff\xfe words -\\ud800 &#0; &#xD800; &#1;</p>'
        yield f"charset-{name[:9]}.html", page, 1
    pieces = {
        "control": b"<p>a\x01b\x0bc\x0c</p>", "entities": b"<p>" + b"&" * 9_000, "unclosed": b"<!-- <p>x", "no-tags": b"x",
        "attributes": b"<p " + b"a=1 " * 4_000 + b">x", "xml": b'<?xml version="1.0" encoding="utf-32"?><html><p>x</p>',
        "doctype": b'<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;&b;">]><html><p>&c;&c;</p></html>',
        "deep": b"<div><span>" * 1_700, "tables": b"<table><tr><td>" * 1_300, "script": b"<script>" * 2_000,
    }  # fmt: skip
    for name, page in pieces.items():
        yield f"page-{name}.html", page, 1


def _pdfs() -> Iterator[tuple[str, bytes, int | None]]:
    """A file is a document, or an exclusion."""
    for name, content in pdf_files.hostile():
        yield f"pdf-{name}.pdf", content, 1
    yield "air.pdf.gz", gzip.compress(b" " * 8_000_000, mtime=0), 1
    yield "headless.pdf.gz", b"\x1f\x8b", 1


def _columns() -> Iterator[tuple[str, pa.Table]]:
    """Columns that are no text; years, time zones and bytes that Python cannot hold."""
    offsets, data = pa.py_buffer(b"\0\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"\xff\xfea")
    texts: dict[str, pa.Array] = {
        "not-utf8": pa.Array.from_buffers(pa.string(), 2, [None, offsets, data]),
        "null": pa.nulls(3), "integers": pa.array([1, None]), "floats": pa.array([float("nan"), float("inf")]),
        "bytes": pa.array([b"\xff", b"a"]), "lists": pa.array([["a"], []]), "records": pa.array([{"a": "b"}]),
        "dates": pa.array([2**31 - 1, 2], pa.date32()), "times": pa.array([2**62, 2], pa.timestamp("us")),
        "zones": pa.array([2, 3], pa.timestamp("us", "Nowhere/Land")), "nanoseconds": pa.array([2**62], pa.timestamp("ns")),
        "spans": pa.array([2**62], pa.duration("us")), "words": pa.array(["a", "b", "a"]).dictionary_encode(),
        "long": pa.array(["x" * (LIMIT + 1), "y"]), "none": pa.array([], pa.string()), "views": pa.array(["a"], pa.large_string()),
    }  # fmt: skip
    for name, column in texts.items():
        yield f"column-{name}.parquet", pa.table({"text": column})
    yield "column-twice.parquet", pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"])
    yield "column-dotted.parquet", pa.table({"text": [{"a": 1}], "text.a": ["q"]})


def _torn_parquet(folder: Path) -> dict[str, int | None]:
    rng = random.Random(5)
    pq.write_table(pa.table({"text": [f"{line} again and again" for line in GOOD * 20]}), folder / "torn-00.parquet")
    good = (folder / "torn-00.parquet").read_bytes()
    for i in range(1, 25):
        data = bytearray(good[: rng.randint(1, len(good))] if i % 3 == 0 else good)
        for _ in range(rng.randint(1, 30)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        (folder / f"torn-{i:02d}.parquet").write_bytes(data)
    return {"torn-00.parquet": 240, **{f"torn-{i:02d}.parquet": None for i in range(1, 25)}}


def _odd_entries(folder: Path) -> dict[str, int | None]:
    """What is no file, or not where it seems to be."""
    (folder / "folder.jsonl" / "inner.parquet").mkdir(parents=True)
    (folder / "folder.jsonl" / "inner.parquet" / "a\nb\t#1.jsonl").write_bytes(LINES)
    (folder / "folder.jsonl" / "up").symlink_to(folder, target_is_directory=True)
    (folder / "folder.jsonl" / "here").symlink_to(".", target_is_directory=True)
    (folder / "self.txt").symlink_to("self.txt")
    (folder / "nowhere.jsonl").symlink_to("no such file")
    os.mkfifo(folder / "pipe.jsonl")
    (folder / "noending").write_bytes(LINES)
    (folder / "packed.parquet.gz").write_bytes(b"PAR1")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    with open(os.fsencode(folder) + b"/\xff\xfe.txt", "wb") as file:
        file.write(b"some words")
    named = ["folder.jsonl/up", "folder.jsonl/here", "self.txt", "nowhere.jsonl", "pipe.jsonl", "noending"]
    inner = "folder.jsonl/inner.parquet/a\nb\t#1.jsonl"
    return {**dict.fromkeys([*named, "packed.parquet.gz", "picture.png", "\\xff\\xfe.txt"], 1), inner: len(GOOD)}
