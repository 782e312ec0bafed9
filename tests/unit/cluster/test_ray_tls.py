"""Ray's TLS variables: what `serinus up` says of them before a node starts."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster import ray_tls
from cluster.certificates import check_pair
from cluster.errors import ConfigError
from tests.unit.certificate_files import make_pair

HOST = "127.0.0.1:0"


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


@pytest.fixture
def grpc_head(files: dict[str, Path]) -> Iterator[Callable[[bool], str]]:
    """Starts what answers as Ray's GCS does, with or without TLS, and gives its address."""
    import grpc

    servers: list[grpc.Server] = []

    def start(with_tls: bool) -> str:
        servers.append(server := grpc.server(ThreadPoolExecutor(1)))
        certificate, key, authority = (files[name].read_bytes() for name in ray_tls.FILES)
        secrets = grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=True)
        port = server.add_secure_port(HOST, secrets) if with_tls else server.add_insecure_port(HOST)
        server.start()
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(None)


def test_a_head_and_a_client_that_differ_in_tls_are_told(
    grpc_head: Callable[[bool], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secure, plain = grpc_head(True), grpc_head(False)
    assert ray_tls.mismatch(secure) is None
    assert "speaks no TLS" in str(ray_tls.mismatch(plain))
    monkeypatch.setenv("RAY_TLS_CA_CERT", str(make_pair(tmp_path, "other")[0]))
    assert "not trusted here (self-signed certificate)" in str(ray_tls.mismatch(secure))
    monkeypatch.setenv("RAY_USE_TLS", "0")
    assert ray_tls.mismatch(plain) is None
    assert "speaks TLS, and RAY_USE_TLS is not on here" in str(ray_tls.mismatch(secure))


def test_who_says_nothing_is_not_taken_for_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_tls, "PROBE_TIMEOUT_S", 0.1)
    monkeypatch.delenv("RAY_USE_TLS", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert ray_tls.mismatch(f"127.0.0.1:{silent.getsockname()[1]}") is None
