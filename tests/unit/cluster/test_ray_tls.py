"""Ray's TLS variables: what `serinus up` says of them before a node starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster import ray_tls
from cluster.certificates import check_pair
from cluster.errors import ConfigError
from tests.unit.certificate_files import make_pair


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A pair that is its own authority, in Ray's variables."""
    certificate, key = make_pair(tmp_path)
    found = {"RAY_TLS_SERVER_CERT": certificate, "RAY_TLS_SERVER_KEY": key, "RAY_TLS_CA_CERT": certificate}
    for name, file in found.items():
        monkeypatch.setenv(name, str(file))
    monkeypatch.setenv("RAY_USE_TLS", "1")
    return found


def test_a_pair_for_all_nodes_is_good(files: dict[str, Path]) -> None:
    assert ray_tls.check(["127.0.0.1"]) is not None


@pytest.mark.parametrize("value", ["0", "", "false"])
def test_without_tls_nothing_is_looked_at(value: str, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    files["RAY_TLS_SERVER_CERT"].unlink()
    monkeypatch.setenv("RAY_USE_TLS", value)
    assert ray_tls.check(["127.0.0.1"]) is None


@pytest.mark.parametrize("name", ray_tls.FILES)
def test_a_variable_that_is_missing_or_leads_nowhere_is_named(
    name: str, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "/none.pem")
    with pytest.raises(ConfigError, match=r"/none\.pem: cannot be read"):
        ray_tls.check([])
    monkeypatch.setenv(name, "none.pem")
    with pytest.raises(ConfigError, match=f"{name}: none.pem is no absolute path"):
        ray_tls.check([])
    monkeypatch.delenv(name)
    with pytest.raises(ConfigError, match=f"RAY_USE_TLS: is on, and {name} is not set"):
        ray_tls.check([])


def test_an_address_that_is_not_named_is_told(files: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"does not name 127\.0\.0\.2, 127\.0\.0\.3"):
        ray_tls.check(["127.0.0.3", "127.0.0.1", "127.0.0.2"])


def test_another_authority_is_refused(files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TLS_CA_CERT", str(make_pair(tmp_path, "other")[0]))
    with pytest.raises(ConfigError, match="is not valid"):
        ray_tls.check([])
    (tmp_path / "other.crt").write_text("x")
    with pytest.raises(ConfigError, match="is no certificate"):
        ray_tls.check([])


def test_a_certificate_for_servers_alone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = make_pair(tmp_path, for_servers_alone=True)
    assert check_pair("x", certificate, key).names == {"127.0.0.1"}  # a gateway is no client
    for name, file in zip(ray_tls.FILES, (certificate, key, certificate), strict=True):
        monkeypatch.setenv(name, str(file))
    monkeypatch.setenv("RAY_USE_TLS", "1")
    with pytest.raises(ConfigError, match=r"is not valid .*purpose"):
        ray_tls.check(["127.0.0.1"])
