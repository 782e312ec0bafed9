"""PDF files, written by hand as ISO 32000-1 says: good ones, locked ones, and such as no reader likes."""

from __future__ import annotations

import hashlib
import random
import struct
import zlib
from collections.abc import Iterator, Sequence

PAD = bytes.fromhex("28bf4e5e4e758a4164004e56fffa01082e2e00b6d0683e802f0ca9fe6453697a")
"""Fills passwords up (7.6.3.3, algorithm 2)."""
FONT = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>"
ID = b"serinus serinus "
PAGE = "\n".join(["the canary sang and sang"] * 40)


def pdf(*pages: str, password: str | None = None) -> bytes:
    """A page for each text, line by line."""
    return with_contents([_operators(text) for text in pages], password=password)


def with_contents(contents: Sequence[bytes], password: str | None = None, filters: str = "") -> bytes:
    """A page for each stream of operators."""
    numbers = [4 + 2 * i for i in range(len(contents))]
    kids = b" ".join(b"%d 0 R" % number for number in numbers)
    objects = [b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[%s]/Count %d>>" % (kids, len(numbers)), FONT]
    key = _key(password) if password is not None else None
    for number, content in zip(numbers, contents, strict=True):
        page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents %d 0 R/Resources<</Font<</F1 3 0 R>>>>>>"
        body = rc4(_object_key(key, number + 1), content) if key else content
        objects += [page % (number + 1), _stream(body, filters)]
    more = b""
    if key:
        objects.append(_encryption(str(password)))
        more += b"/Encrypt %d 0 R/ID[<%s><%s>]" % (len(objects), ID.hex().encode(), ID.hex().encode())
    return assembled(objects, more)


def assembled(objects: Sequence[bytes], trailer: bytes = b"") -> bytes:
    """A file of these objects, numbered from 1; the first is the catalog."""
    out, places = bytearray(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"), list[int]()
    for number, content in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    out += b"trailer<</Size %d/Root 1 0 R%s>>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, trailer, start)
    return bytes(out)


def picture() -> bytes:
    """A page that is a picture alone."""
    pixels = b"<</Type/XObject/Subtype/Image/Width 2/Height 2/ColorSpace/DeviceGray/BitsPerComponent 8/Length 4>>"
    return assembled([
        b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<</XObject<</I 5 0 R>>>>>>",
        _stream(b"q 600 0 0 700 0 0 cm /I Do Q"), pixels + b"stream\n\x00\xff\xff\x00\nendstream",
    ])  # fmt: skip


def _operators(text: str) -> bytes:
    lines = [line.translate({ord(mark): f"\\{mark}" for mark in "()\\"}) for line in text.split("\n")]
    shown = " 0 -14 Td ".join(f"({line}) Tj" for line in lines)
    return f"BT /F1 12 Tf 72 720 Td {shown} ET".encode("cp1252")


def _stream(content: bytes, filters: str = "") -> bytes:
    form = f"/Filter{filters}" if filters else ""
    return b"<</Length %d%s>>stream\n%s\nendstream" % (len(content), form.encode(), content)


def _encryption(password: str) -> bytes:
    """Revision 2, 40 bits: what every reader opens (7.6.3)."""
    user = rc4(_key(password), PAD)
    return b"<</Filter/Standard/V 1/R 2/P -4/O<%s>/U<%s>>>" % (_owner(password).hex().encode(), user.hex().encode())


def _owner(password: str) -> bytes:
    return rc4(hashlib.md5(_padded("owner")).digest()[:5], _padded(password))


def _key(password: str) -> bytes:
    return hashlib.md5(_padded(password) + _owner(password) + struct.pack("<i", -4) + ID).digest()[:5]


def _object_key(key: bytes, number: int) -> bytes:
    return hashlib.md5(key + struct.pack("<I", number)[:3] + b"\0\0").digest()[:10]


def _padded(password: str) -> bytes:
    return (password.encode() + PAD)[:32]


def rc4(key: bytes, content: bytes) -> bytes:
    state, j, out = list(range(256)), 0, bytearray()
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    i = j = 0
    for byte in content:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)


def hostile() -> Iterator[tuple[str, bytes]]:
    """Files that are damaged, locked, empty, endless or a thousand times larger unpacked."""
    good = pdf("the canary sang in the morning", "and in the evening")
    yield from {
        "empty": b"", "header": b"%PDF-1.7\n", "no-pdf": b"just some words", "zeros": b"\0" * 5_000,
        "half": good[: len(good) // 2], "no-xref": good[: good.index(b"xref")], "locked": pdf("secret", password="x"),
        "picture": picture(), "no-pages": assembled([b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[]/Count 0>>"]),
        "no-catalog": assembled([b"null"]), "many-pages": _counted(2_000_000_000), "less-than-none": _counted(-7),
        "circle": assembled([b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[2 0 R 2 0 R]/Count 9>>"]),
        "xref-circle": good.replace(b"/Root", b"/Prev %d/Root" % good.index(b"xref")),
        "deep": assembled([b"<</Type/Catalog/Pages 2 0 R>>", b"[" * 50_000 + b"]" * 50_000]),
        "deep-operators": with_contents([b"q " * 200_000 + b"BT /F1 9 Tf (x) Tj ET"]),
        "air": with_contents([_packed(b" " * 30_000_000, 2)], filters="[/FlateDecode/FlateDecode]"),
        "line": with_contents([_packed(b"BT /F1 9 Tf " + b"(canary) Tj " * 20_000, 1)], filters="/FlateDecode"),
        "words": with_contents([_packed(_operators(PAGE), 1)] * 40, filters="/FlateDecode"),
        "huge-font": with_contents([b"BT /F1 1e38 Tf 1e38 -1e38 Td (x) Tj ET"]),
        "long-length": good.replace(b"/Length ", b"/Length 99999999"),
    }.items()  # fmt: skip
    rng = random.Random(6)
    for i in range(20):
        data = bytearray(good[: rng.randint(1, len(good))] if i % 4 == 0 else good)
        for _ in range(rng.randint(1, 25)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        yield f"torn-{i:02d}", bytes(data)


def _counted(num_pages: int) -> bytes:
    return assembled([b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[]/Count %d>>" % num_pages])


def _packed(content: bytes, times: int) -> bytes:
    for _ in range(times):
        content = zlib.compress(content, 9)
    return content
