"""The token that clusters ask for, before any Ray is started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cluster import auth_token, session
from cluster.errors import ResourceError


@pytest.fixture
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user without a token; the path where it would be."""
    file = tmp_path / ".ray" / "auth_token"
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    return file


def test_a_token_is_made_once_and_only_its_owner_reads_it(no_token: Path) -> None:
    assert auth_token.token() is None
    auth_token.ensure_token()
    first = auth_token.token()
    assert first is not None
    assert len(first) == 64
    assert no_token.stat().st_mode & 0o777 == 0o600
    assert no_token.parent.stat().st_mode & 0o777 == 0o700
    auth_token.ensure_token()
    assert auth_token.token() == first
    assert [file.name for file in no_token.parent.iterdir()] == ["auth_token"]


def test_two_that_make_a_token_at_once_agree(no_token: Path) -> None:
    code = "from cluster import auth_token; auth_token.ensure_token(); print(auth_token.token())"
    made = [
        subprocess.Popen([sys.executable, "-c", code], cwd=session.package_root(), stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert len({process.communicate()[0] for process in made}) == 1


def test_the_environment_goes_before_the_file(no_token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    auth_token.ensure_token()
    monkeypatch.setenv("RAY_AUTH_TOKEN", " given ")
    assert auth_token.token() == "given"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert auth_token.token() is None


def test_a_token_that_cannot_be_written_is_told(no_token: Path) -> None:
    no_token.parent.write_text("a file where the folder should be")
    with pytest.raises(ResourceError, match="cannot be written"):
        auth_token.ensure_token()
