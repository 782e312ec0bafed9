"""Which serinus runs: another one as soon as a line of it, or what it stands on, is another."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import code_version as module


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The sources of a small installation."""
    for package in module.PACKAGES:
        (tmp_path / package / "part").mkdir(parents=True)
        (tmp_path / package / "part" / "one.py").write_text("ONE = 1\n")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "cluster" / "code_version.py"))
    return tmp_path


def asked_anew() -> str:
    module.code_version.cache_clear()
    return module.code_version()


def test_it_changes_with_each_line_and_with_what_lies_beneath(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = asked_anew()
    assert re.fullmatch(r"[\w.]+\+[0-9a-f]{10}", before)
    assert asked_anew() == before
    (installed / "services" / "part" / "one.py").write_text("ONE = 2\n")
    changed = asked_anew()
    assert changed != before
    (installed / "cluster" / "two.py").write_text("")
    assert asked_anew() != changed
    known = asked_anew()
    monkeypatch.setattr(module, "version", lambda name: "99")
    assert asked_anew() not in (known, changed, before)


def test_what_is_installed_while_a_process_runs_is_not_what_runs_there(installed: Path) -> None:
    before = asked_anew()
    (installed / "services" / "part" / "one.py").write_text("ONE = 2\n")
    assert module.code_version() == before


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What was asked here is nobody else's answer."""
    yield
    module.code_version.cache_clear()
