"""Ask OSV (osv.dev) for known vulnerabilities of everything that the locks pin, a part of `make lint`: one request, and
one more for each further page of answers.

    python requirements/audit.py [--require]

Exit code 1: a vulnerability that accepted.txt does not accept. 2: a lock or that file is not as it should be, or with --require,
which is for releases, OSV could not be asked. Without a network the step says that it has not scanned, and passes.

Not pip-audit: it asks for each package by itself, and where its index has no data it skips all of them, says "No known
vulnerabilities found" and ends with 0.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple

import httpx

HERE = Path(__file__).parent
LOCKS = ("cpu.txt", "gpu.txt", "quantize.txt")
OSV = "https://api.osv.dev/v1/querybatch"
"""Takes 1,000 packages at once; https://google.github.io/osv.dev/post-v1-querybatch/"""
TIMEOUT_S = 5.0
MOST_PAGES = 20
"""Of answers. OSV gives one page where a version has fewer than a thousand vulnerabilities; a server that never ends is none."""
PIN = re.compile(r"([a-z0-9-]+)==([^\s;]+)")
ACCEPTED = re.compile(r"(\S+)\s+until\s+(\d{4}-\d{2}-\d{2})\s+(\S.*)")


class Pin(NamedTuple):
    """One version of one package."""

    name: str
    version: str


class NotScanned(Exception):
    """OSV could not be asked, or did not answer as it should."""


def read_pins(folder: Path) -> dict[Pin, list[str]]:
    """What is pinned, and in which locks.

    Raises:
        ValueError: a line that pins no exact version.
    """
    pins: dict[Pin, list[str]] = {}
    for lock in LOCKS:
        for number, line in enumerate((folder / lock).read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip() or line.startswith("#"):
                continue
            if (found := PIN.fullmatch(line.strip())) is None:
                raise ValueError(f"{lock}, line {number}: `{line}` is no exact version\n  -> write NAME==VERSION")
            # What comes after + says how it was built.
            pins.setdefault(Pin(found[1], found[2].partition("+")[0]), []).append(lock)
    return pins


def read_accepted(file: Path, today: date) -> dict[str, str]:
    """Identifier -> why, of those whose date has not passed. A line: `GHSA-... until 2027-01-31 why it does no harm here`.

    Raises:
        ValueError: a line of another form.
    """
    accepted: dict[str, str] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        if (found := ACCEPTED.fullmatch(line.strip())) is None:
            raise ValueError(f"{file.name}, line {number}: `{line}`\n  -> write IDENTIFIER until YYYY-MM-DD WHY")
        try:
            until = date.fromisoformat(found[2])
        except ValueError as error:
            raise ValueError(f"{file.name}, line {number}: {found[2]} is no date\n  -> {error}") from None
        if until >= today:
            accepted[found[1]] = found[3]
    return accepted


def vulnerabilities(pins: Iterable[Pin], url: str = OSV) -> dict[Pin, list[str]]:
    """Identifiers of those that are known; pins without any are left out.

    Raises:
        NotScanned: no answer, or one that is not whole.
    """
    found: dict[Pin, set[str]] = {}
    pages = dict.fromkeys(pins, "")
    with httpx.Client(timeout=TIMEOUT_S) as client:
        for _ in range(MOST_PAGES):
            results = _page(client, pages, url)
            for pin, result in results.items():
                found.setdefault(pin, set()).update(one["id"] for one in result.get("vulns", ()))
            pages = {pin: token for pin, result in results.items() if (token := result.get("next_page_token"))}
            if not pages:
                return {pin: sorted(ids) for pin, ids in found.items() if ids}
    raise NotScanned(f"{httpx.URL(url).host} has more than {MOST_PAGES} pages of answers")


def _page(client: httpx.Client, pages: Mapping[Pin, str], url: str) -> dict[Pin, Any]:
    """What is answered on each pin's page, the first one where it is empty."""
    queries = [
        {"package": {"name": pin.name, "ecosystem": "PyPI"}, "version": pin.version}
        | ({"page_token": token} if token else {})
        for pin, token in pages.items()
    ]
    try:
        answer = client.post(url, json={"queries": queries})
        answer.raise_for_status()
        results = answer.json()["results"]
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise NotScanned(f"{httpx.URL(url).host} cannot be asked ({type(error).__name__}: {error})") from None
    if len(results) != len(pages):
        raise NotScanned(f"{len(pages)} versions were asked for and {len(results)} answered")
    return {pin: result or {} for pin, result in zip(pages, results, strict=True)}


def lines(found: Mapping[Pin, list[str]], pins: Mapping[Pin, list[str]], accepted: Mapping[str, str]) -> list[str]:
    """One for each vulnerability that is not accepted."""
    return [
        f"{pin.name} {pin.version} ({', '.join(pins[pin])}): {one}, https://osv.dev/vulnerability/{one}"
        for pin, ids in found.items()
        for one in ids
        if one not in accepted
    ]


def main(words: list[str], folder: Path = HERE, url: str = OSV) -> int:
    """Exit code."""
    try:
        pins, accepted = read_pins(folder), read_accepted(folder / "accepted.txt", datetime.now(UTC).date())
    except ValueError as error:
        print(f"audit: {error}")
        return 2
    try:
        found = vulnerabilities(pins, url)
    except NotScanned as why:
        print(f"audit: NOT SCANNED: {why}. All {len(pins)} versions in the locks are exact.")
        return 2 if "--require" in words else 0
    left = lines(found, pins, accepted)
    for line in left:
        print(f"audit: {line}")
    print(f"audit: {len(pins)} versions scanned, {len(left)} vulnerabilities, {len(accepted)} accepted")
    if left:
        print("  -> raise the version (requirements/lock.py), or accept it for a time in requirements/accepted.txt")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], url=os.environ.get("SERINUS_OSV", OSV)))
