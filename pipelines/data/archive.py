"""Documents out of a web archive: WARC, WET and ARC, packed or not (ISO 28500; the Internet Archive's ARC 1.0).

warcio reads the headers; where a record begins and ends is found here, so that a broken record costs no more than itself and
none takes more memory than a document may have.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipelines.data.document import Document, DropReason
from pipelines.data.pages import declared_charset, decode, main_text, storable
from pipelines.data.unpacked import MAGIC, TooMuch, Unpacked

if TYPE_CHECKING:
    from pipelines.data.inventory import SourceFile

MAX_HEADER_BYTES = 1 << 20
MAX_ORIGIN = 2_000
"""Characters of an address that are kept."""
MAX_BROKEN = 1_000
"""Records of one file: behind the last of them the rest is not looked at. Each costs a search for the next one."""
DOCUMENTS = ("response", "resource", "conversion")
"""Types of records that hold a document. Of the others (requests, metadata, revisits) nothing is told."""
PAGES = ("text/html", "application/xhtml+xml")
CHARSET = re.compile(r"charset\s*=\s*[\"']?([A-Za-z0-9_.:-]+)", re.IGNORECASE)
LOOKS_LIKE_PAGE = re.compile(rb"<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE)


class DamagedBody(Exception):
    """Cannot be unpacked, in a record whose end is known. Never leaves this module."""


class BrokenRecord(Exception):
    """Of no use behind its header. Never leaves this module."""


def read_archive(file: SourceFile, limit: int) -> Iterator[Document]:
    """The documents of its records in order. Their position is the record's number, counting those without a document too.

    Raises:
        OSError: the file was readable when it was listed and is not any more.
    """
    yield from (document for document in read_records(file, limit) if document is not None)


def read_records(file: SourceFile, limit: int) -> Iterator[Document | None]:
    """For each record its document, or None where it is for none: who only wants to know what a file is like, as WAT files are
    whose records are all metadata, need not read on to its end.

    Raises:
        OSError: see read_archive.
    """
    number = num_told = num_broken = 0
    with file.filesystem.open_input_file(file.path) as raw:
        unpacked = Unpacked(raw)
        more = _at_record(unpacked)
        while more:
            number, start = number + 1, unpacked.at
            document, whole = _tried(file, number, unpacked, limit)
            num_broken += not whole
            if num_broken == MAX_BROKEN and document:
                document = replace(document, detail=f"{document.detail}; {num_broken} so far: the rest was not read")
            more = num_broken < MAX_BROKEN and (_at_record(unpacked) if whole else unpacked.find_next(start))
            num_told += document is not None
            span = (start, unpacked.at) if whole and unpacked.at > start else None
            yield replace(document, span=span) if document else None
    if not num_told:
        detail = f"{number} records, and none of them holds a document ({', '.join(DOCUMENTS)})"
        yield Document(f"{file.name}#1", "", file.name, 1, "missing_text", detail)


def _at_record(unpacked: Unpacked) -> bool:
    """Whether there is a record behind the empty lines here. Damage is left to the reading of that record."""
    try:
        return unpacked.skip_empty_lines()
    except zlib.error:
        return True


def _tried(file: SourceFile, number: int, unpacked: Unpacked, limit: int) -> tuple[Document | None, bool]:
    """What the record that begins here holds, if it is for documents, and whether it was whole: the next one is right behind it."""
    name, start = f"{file.name}#{number}", unpacked.at
    try:
        return _read_record(Document(name, "", file.name, number), unpacked, limit), True
    except _broken_by() as error:
        found = str(error).strip().splitlines() or [type(error).__name__]
        detail = f"broken record at byte {start}: {storable(found[0])[:200]}"
        return Document(name, "", file.name, number, "unreadable", detail), False


def _broken_by() -> tuple[type[Exception], ...]:
    """Ours, warcio's own, and what its parsers raise for: headers without a value, lengths that are no numbers."""
    from warcio.exceptions import ArchiveLoadFailed
    from warcio.statusandheaders import StatusAndHeadersParserException

    of_warcio = (ArchiveLoadFailed, StatusAndHeadersParserException, ValueError, AttributeError, TypeError, LookupError)
    return (*of_warcio, BrokenRecord, TooMuch, zlib.error, EOFError)


def _read_record(empty: Document, unpacked: Unpacked, limit: int) -> Document | None:
    from warcio.recordloader import ArcWarcRecordLoader

    unpacked.budget = MAX_HEADER_BYTES
    record = ArcWarcRecordLoader(verify_http=False, arc2warc=False).parse_record_stream(unpacked)
    _check(record)
    end = unpacked.num_read + record.raw_stream.limit
    document = None
    if record.rec_type in DOCUMENTS:
        unpacked.budget = limit + MAX_HEADER_BYTES
        try:
            document = replace(_document(empty, record, limit), origin=_origin(record))
        except TooMuch:
            document = _excluded(empty, "too_large", f"more than {limit} bytes allowed; the text was not read")
            document = replace(document, origin=_origin(record))
        except DamagedBody as error:  # where the record ends is known all the same: what the body holds is no record
            document = _excluded(empty, "unreadable", f"its body cannot be unpacked: {error}")
            document = replace(document, origin=_origin(record))
    unpacked.budget = None
    while (missing := end - unpacked.num_read) and unpacked.read(min(missing, 1 << 16)):
        pass
    if missing and not _has_its_body(record):
        raise BrokenRecord(f"cut off, {missing} of its {record.length} bytes are missing")
    return document


def _has_its_body(record: Any) -> bool:
    """Whether all is there that the server sent, whatever the archive's header says: some crawlers counted wrongly."""
    declared = record.http_headers.get_header("content-length") if record.http_headers is not None else None
    if declared is None or not declared.isdigit():
        return False
    return record.raw_stream.tell() - record.http_headers.total_len >= int(declared)


def _check(record: Any) -> None:
    """Raises BrokenRecord: its end cannot be known, or not what it is."""
    given = record.rec_headers.get_header("length" if record.format == "arc" else "Content-Length")
    if record.rec_type == "arc_header" and given == "-1":  # old crawlers wrote their file's own header so
        return
    if given is None or not given.strip().isdigit() or len(given) > 18:
        raise BrokenRecord(f"its length is {given}")
    if not record.rec_type:
        raise BrokenRecord("it says no WARC-Type")


def _origin(record: Any) -> str:
    headers = record.rec_headers
    names = ("uri",) if record.format == "arc" else ("WARC-Target-URI", "WARC-Record-ID")
    return " ".join(storable(value)[:MAX_ORIGIN] for name in names if (value := headers.get_header(name)))


def _document(empty: Document, record: Any, limit: int) -> Document:
    """The record's text, or why there is none."""
    http = record.http_headers
    if http is not None and (status := http.get_statuscode()) != "200":
        return _excluded(empty, "http_status", f"answered {storable(status) or 'nothing'}, not 200")
    declared = (http.get_header("content-type") if http is not None else record.content_type) or ""
    kind = declared.partition(";")[0].strip().lower()
    if record.rec_type != "conversion" and kind not in ("", "text/plain", *PAGES):
        return _excluded(empty, "unknown_format", f"content type {storable(kind)[:100]}")
    content = _content(record, limit)
    if len(content) > limit:
        raise TooMuch
    is_page = record.rec_type != "conversion" and (kind in PAGES or bool(LOOKS_LIKE_PAGE.search(content[:1024])))
    charset = CHARSET.search(declared)
    text = decode(content, charset.group(1) if charset else declared_charset(content) if is_page else None)
    if text is None:
        return _excluded(empty, "binary", f"{len(content)} bytes that are no text")
    if not is_page:
        return replace(empty, text=storable(text))
    article = main_text(text)
    if article is None:
        return replace(empty, text=storable(text), reason="no_main_text", detail="no article found in the page")
    return replace(empty, text=storable(article))


def _excluded(empty: Document, reason: DropReason, detail: str) -> Document:
    return replace(empty, reason=reason, detail=detail)


def _content(record: Any, limit: int) -> bytes:
    """At most one byte more than `limit`, without HTTP's chunks and compression.

    warcio would unpack a chunk whole, however large it becomes.
    """
    from warcio.bufferedreaders import ChunkedDataReader

    http, stream = record.http_headers, record.raw_stream
    if http is None:
        return stream.read(limit + 1)
    if (http.get_header("transfer-encoding") or "").lower() == "chunked":
        stream = ChunkedDataReader(stream)
    content: bytes = stream.read(limit + 1)
    encoding = (http.get_header("content-encoding") or "").strip().lower()
    if encoding == "deflate":
        return _inflated(content, limit)
    if encoding in ("gzip", "x-gzip") and content.startswith(b"\x1f\x8b"):  # crawlers unpack and leave the header
        return _gunzipped(content, limit)
    return content


def _gunzipped(content: bytes, limit: int) -> bytes:
    """All members of a gzip body one after the other (RFC 1952, section 2.2); what follows the last is no part of it.

    Raises:
        DamagedBody: in any of them. A checksum that is cut off is not missed: some crawlers count a few bytes short.
    """
    text = b""
    while content.startswith(MAGIC[:2]) and len(text) <= limit:
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
        room = limit + 1 - len(text)
        try:
            part = unpacker.decompress(content, room)
            if len(part) < room and not unpacker.eof:
                part = _whole(zlib.decompressobj(-zlib.MAX_WBITS), content[_header_bytes(content) :], room)
        except (zlib.error, ValueError) as error:
            raise DamagedBody(str(error)) from None
        text, content = text + part, unpacker.unused_data
    return text


def _header_bytes(member: bytes) -> int:
    """Of a gzip member (RFC 1952, section 2.3). Raises ValueError: it has no end."""
    flags, end = int.from_bytes(member[3:4]), 10
    if flags & 4:
        end += 2 + int.from_bytes(member[end : end + 2], "little")
    for texts in (8, 16):  # the file's name, a comment
        if flags & texts:
            end = member.index(0, end) + 1
    return end + (2 if flags & 2 else 0)


def _inflated(content: bytes, limit: int) -> bytes:
    """RFC 9110 says zlib, some servers send what is inside.

    Raises:
        DamagedBody: cut off.
    """
    for bits in (zlib.MAX_WBITS, -zlib.MAX_WBITS):
        try:
            return _whole(zlib.decompressobj(bits), content, limit + 1)
        except zlib.error:
            continue
    return content


def _whole(unpacker: Any, content: bytes, limit: int) -> bytes:
    """What is in `content`, at most `limit` bytes of it."""
    text: bytes = unpacker.decompress(content, limit)
    if len(text) < limit and not unpacker.eof:
        raise DamagedBody("cut off")
    return text
