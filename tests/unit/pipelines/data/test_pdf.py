"""PDF files: their text, why some have none, and that no file harms the process that asks for it."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from cluster.storage import LocalStorage
from pipelines.config import SourceConfig
from pipelines.data import pdf
from pipelines.data.apart import Apart
from pipelines.data.document import Document
from pipelines.data.inventory import inventory
from pipelines.data.pdf_text import BETWEEN_PAGES
from pipelines.data.read import read_documents
from pipelines.data.trace import trace
from tests.unit.pipelines.data import world
from tests.unit.pipelines.data.pdf_files import PAGE, hostile, picture, with_contents
from tests.unit.pipelines.data.pdf_files import pdf as pdf_file

LIMIT = 10_000


def read(path: Path, limit: int = LIMIT) -> Document:
    (file,) = inventory([SourceConfig(path=str(path))])
    assert file.format == "pdf"
    (document,) = read_documents(file, limit)
    return document


def test_a_file_is_a_document_with_its_pages_one_after_the_other(tmp_path: Path) -> None:
    content = pdf_file("The canary sang\nin the mine.", "", "Café “naïve” (really) \\ 100 €")
    (tmp_path / "a.pdf").write_bytes(content)
    assert read(tmp_path / "a.pdf") == Document(
        "a.pdf",
        "The canary sang\nin the mine.\n\nCafé “naïve” (really) \\ 100 €",
        "a.pdf",
        1,
        span=(0, len(content)),
    )


def test_words_that_are_parted_at_the_end_of_a_line_are_joined(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf_file("They were mani-\npulated by the well-\nknown canary."))
    assert read(tmp_path / "a.pdf").text == "They were manipulated by the wellknown canary."


def test_text_beside_the_page_is_not_there_for_its_readers(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(with_contents([b"BT /F1 12 Tf 72 720 Td (seen) Tj 900 0 Td (unseen) Tj ET"]))
    assert read(tmp_path / "a.pdf").text == "seen"


def test_a_packed_file_is_read_as_well(tmp_path: Path) -> None:
    (tmp_path / "a.pdf.gz").write_bytes(gzip.compress(pdf_file("The canary sang.")))
    assert read(tmp_path / "a.pdf.gz").text == "The canary sang."


def test_a_file_that_opens_without_a_password_is_read_whatever_it_forbids(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf_file("The canary sang.", password=""))
    assert read(tmp_path / "a.pdf").text == "The canary sang."


@pytest.mark.parametrize(
    ("content", "reason", "detail"),
    [
        (pdf_file("secret", password="x"), "unreadable", "encrypted: it opens with a password alone"),
        (picture(), "no_text", "none of 1 pages has text"),
        (b"just some words", "unreadable", "not readable as PDF"),
        (b"", "unreadable", "not readable as PDF"),
        (pdf_file(*[PAGE] * 11), "too_large", f"more than {LIMIT} bytes of text"),
    ],
)
def test_what_has_no_text_says_why(tmp_path: Path, content: bytes, reason: str, detail: str) -> None:
    (tmp_path / "a.pdf").write_bytes(content)
    found = read(tmp_path / "a.pdf")
    assert (found.id, found.reason, found.text) == ("a.pdf", reason, "")
    assert detail in found.detail
    assert f"the whole file: {len(content)} bytes, sha256 " in found.detail


def test_text_of_just_the_size_that_is_allowed_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf_file(PAGE, "", PAGE, "é"))
    size = 2 * len(PAGE) + 2 * len(BETWEEN_PAGES) + len("é".encode())
    assert read(tmp_path / "a.pdf", size).text == f"{PAGE}\n\n{PAGE}\n\né"
    assert read(tmp_path / "a.pdf", size - 1).reason == "too_large"


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "MAX_BYTES", 100)
    (tmp_path / "a.pdf").write_bytes(pdf_file("The canary sang."))
    found = read(tmp_path / "a.pdf")
    assert (found.reason, "at most 100 allowed" in found.detail) == ("too_large", True)


def test_no_hostile_file_harms_the_reader_of_the_next_one(tmp_path: Path) -> None:
    for name, content in hostile():
        found = pdf.text_of(content, LIMIT)
        assert found.text or found.reason, name
        assert (found.reason in (None, "no_text", "too_large", "unreadable"), name) == (True, name)
    assert pdf.text_of(pdf_file("The canary sang."), LIMIT).text == "The canary sang."


def test_what_is_said_of_a_file_does_not_depend_on_the_one_before() -> None:
    files = dict(hostile())
    for before in ("locked", "picture", "no-pdf"):
        pdf.text_of(files[before], LIMIT)
        assert pdf.text_of(files["no-pages"], LIMIT).detail == "not readable as PDF"


def test_a_file_that_takes_too_long_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Apart("pipelines.data.pdf_text:extract", pdf.MEMORY_BYTES, 0.3)
    monkeypatch.setattr(pdf, "_reader", lambda: slow)
    content = with_contents([b"BT /F1 9 Tf " + b"(canary) Tj 0 1 Td " * 300_000] * 20)
    found = pdf.text_of(content, 100_000_000)
    assert (found.reason, "took more than 0.3 s of processor time" in found.detail) == ("unreadable", True)
    assert pdf.text_of(pdf_file("The canary sang."), LIMIT).text == "The canary sang."
    assert slow.used_cpu_s >= 0.3
    slow.close()


def test_a_dataset_of_pdfs_has_another_key_than_before_they_were_read(tmp_path: Path, storage: LocalStorage) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for i, text in enumerate(world.TEXTS[:4]):
        (folder / f"{i}.txt").write_text(text)
    plain = world.make(storage, world.config(folder))
    assert "pdf_version" not in plain.config
    (folder / "4.pdf").write_bytes(pdf_file(*(line for line in world.TEXTS[4].split(" and "))))
    (folder / "5.pdf").write_bytes(picture())
    made = world.make(storage, world.config(folder))
    assert made.config["pdf_version"] == pdf.VERSION
    assert made.num_excluded_by_reason == {"no_text": 1}
    fate = trace(storage, "in/4.pdf", made).fates[0]
    size = (folder / "4.pdf").stat().st_size
    assert (fate.source, fate.position, fate.span) == ("in/4.pdf", 1, (0, size))
