"""The scan of the locks, against a server that answers as OSV's documentation says, and against none."""

from __future__ import annotations

import http.server
import importlib.util
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY

KNOWN = {("jinja2", "2.4.1"): ["PYSEC-2019-217", "GHSA-462w-v97r-4m45"], ("old", "1"): ["A-1", "A-2", "A-3"]}
PAGES_OF_ONE = ("old",)


def load() -> Any:
    spec = importlib.util.spec_from_file_location("audit", REPOSITORY / "requirements" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


audit = load()


class Osv(http.server.BaseHTTPRequestHandler):
    """POST /v1/querybatch; a package of the name `broken` gets half an answer, `endless` always one more page."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
        results = [self._answer(query) for query in asked]
        if any(query["package"]["name"] == "broken" for query in asked):
            results.pop()
        body = json.dumps({"results": results}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @staticmethod
    def _answer(query: dict[str, Any]) -> dict[str, Any]:
        assert query["package"]["ecosystem"] == "PyPI"
        name = query["package"]["name"]
        known = KNOWN.get((name, query["version"]), [])
        first = int(query.get("page_token", "0"))
        page = known[first : first + 1] if name in PAGES_OF_ONE else known
        answer: dict[str, Any] = {"vulns": [{"id": one, "modified": "2024-01-01T00:00:00Z"} for one in page]}
        if len(known) > first + len(page) or name == "endless":
            answer["next_page_token"] = str(first + 1)
        return answer if known or name == "endless" else {}

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def osv() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Osv) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/querybatch"
        server.shutdown()


Folder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    def made(pins: str = "jinja2==2.4.1\ntorch==2.11.0+cpu\n", accepted: str = "") -> Path:
        for lock, text in (("cpu.txt", pins), ("gpu.txt", "# none\njinja2==3.1.6\n"), ("quantize.txt", "")):
            (tmp_path / lock).write_text(text)
        (tmp_path / "accepted.txt").write_text(f"# a comment\n{accepted}\n")
        return tmp_path

    return made


def test_a_known_vulnerability_fails_and_is_named_with_its_lock(
    osv: str, folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit.main([], folder(), osv) == 1
    said = capsys.readouterr().out
    assert "jinja2 2.4.1 (cpu.txt): PYSEC-2019-217, https://osv.dev/vulnerability/PYSEC-2019-217" in said
    assert "3 versions scanned, 2 vulnerabilities" in said


def test_all_pages_of_an_answer_are_read(osv: str) -> None:
    pins = [audit.Pin("old", "1"), audit.Pin("jinja2", "2.4.1"), audit.Pin("jinja2", "3.1.6")]
    found = audit.vulnerabilities(pins, osv)
    assert found == {pins[0]: ["A-1", "A-2", "A-3"], pins[1]: sorted(KNOWN["jinja2", "2.4.1"])}
    with pytest.raises(audit.NotScanned, match="more than 20 pages"):
        audit.vulnerabilities([audit.Pin("endless", "1")], osv)


@pytest.mark.parametrize(("until", "code"), [("2999-01-31", 0), ("2001-01-31", 1)])
def test_what_is_accepted_passes_until_its_date(osv: str, folder: Folder, until: str, code: int) -> None:
    accepted = "\n".join(
        f"{one} until {until} no template of a stranger is rendered" for one in KNOWN["jinja2", "2.4.1"]
    )
    assert audit.main([], folder(accepted=accepted), osv) == code


@pytest.mark.parametrize(("words", "code"), [([], 0), (["--require"], 2)])
@pytest.mark.parametrize("pins", ["broken==1\n", "jinja2==2.4.1\n"])
def test_what_could_not_be_scanned_is_said(
    osv: str, folder: Folder, capsys: pytest.CaptureFixture[str], words: list[str], code: int, pins: str
) -> None:
    """Half an answer, and nobody there."""
    url = osv if pins.startswith("broken") else "http://127.0.0.1:9/v1/querybatch"
    assert audit.main(words, folder(pins), url) == code
    assert "NOT SCANNED" in capsys.readouterr().out


@pytest.mark.parametrize(
    "given",
    [
        {"pins": "jinja2>=2\n"},
        {"pins": "git+https://x/y\n"},
        {"accepted": "GHSA-1 no date"},
        {"accepted": "GHSA-1 until 2026-13-45 x"},
    ],
)
def test_a_file_of_another_form_is_told_with_its_line(
    osv: str, folder: Folder, capsys: pytest.CaptureFixture[str], given: dict[str, str]
) -> None:
    assert audit.main([], folder(**given), osv) == 2
    assert ", line " in capsys.readouterr().out


def test_the_locks_that_ship_can_be_read() -> None:
    assert len(audit.read_pins(REPOSITORY / "requirements")) > 250
    audit.read_accepted(REPOSITORY / "requirements" / "accepted.txt", audit.date(2026, 1, 1))
