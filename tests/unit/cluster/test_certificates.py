"""A server's certificate is looked at before the server starts, in words of the setting that names it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import serinus
from cluster.certificates import check_pair
from cluster.errors import ConfigError
from tests.unit.certificate_files import make_pair

ENCRYPTED = """-----BEGIN ENCRYPTED PRIVATE KEY-----
MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAgAAAAAAAAAAAICCAAw
-----END ENCRYPTED PRIVATE KEY-----
"""


def test_a_good_pair_holds_until_its_end(tmp_path: Path) -> None:
    until, names = check_pair("serve.tls", *make_pair(tmp_path, days=30, since=-1))
    assert names == {"127.0.0.1"}
    assert abs(until - datetime.now(UTC) - timedelta(days=29)) < timedelta(minutes=1)


def _other_key(folder: Path) -> None:
    (folder / "tls.key").write_bytes(make_pair(folder, "other")[1].read_bytes())


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "tls.crt").unlink(), "tls.crt: cannot be read: No such file"),
        (lambda folder: (folder / "tls.key").unlink(), "tls.key: cannot be read"),
        (lambda folder: (folder / "tls.crt").write_text("x"), "no certificate and key that belong together"),
        (lambda folder: (folder / "tls.key").write_text(ENCRYPTED), "the key must have no passphrase"),
        (_other_key, "key values mismatch"),
        (lambda folder: make_pair(folder, days=1, since=-2), "certificate has expired"),
        (lambda folder: make_pair(folder, days=2, since=1), "certificate is not yet valid"),
        (lambda folder: make_pair(folder, hosts=()), "names no host as subjectAltName"),
        (lambda folder: make_pair(folder, hosts=["spiffe://house/gateway"]), "names no host as subjectAltName"),
    ],
    ids=["no-certificate", "no-key", "no-pem", "passphrase", "another-key", "expired", "early", "nameless", "no-host"],
)
def test_a_pair_that_no_server_could_use_is_refused(spoil: Callable[[Path], object], says: str, tmp_path: Path) -> None:
    certificate, key = make_pair(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ConfigError) as refused:
        check_pair("serve.tls", certificate, key)
    assert says in str(refused.value)
    assert str(refused.value).startswith("serve.tls: ")


def test_check_reads_the_gateways_certificate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = Path("recipes/quickstart.yaml").read_text(encoding="utf-8")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(written.replace("serve:\n", "serve:\n  tls: {certificate: tls.crt, key: tls.key}\n", 1))
    with pytest.raises(ConfigError, match=r"serve\.tls"):
        serinus.app(["check", str(recipe)], standalone_mode=False)
    make_pair(tmp_path, days=5)
    serinus.app(["check", str(recipe)], standalone_mode=False)
    assert "renew it" in capsys.readouterr().out
    make_pair(tmp_path, days=90)
    serinus.app(["check", str(recipe)], standalone_mode=False)
    assert "renew it" not in capsys.readouterr().out
