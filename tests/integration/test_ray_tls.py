"""`serinus up` with Ray's own TLS: the cluster comes up, works, and takes gRPC from nobody without its certificate."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.ray_tls import FILES
from tests.integration.local_cluster import DOWN, UP, Bench
from tests.integration.test_local import WHERE
from tests.unit.certificate_files import make_pair

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(1_200),
    pytest.mark.long,
]

JOB = """
from pathlib import Path
from cluster import jobs
job = jobs.submit(["python", "-c", "import cluster.session as s\\nwith s.joined() as how: print(how)"], working_dir=Path("."))
print("exit", jobs.follow(job, out=lambda text: print(text, end="")))
"""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
"""With which every gRPC connection begins (RFC 9113, 3.4), and an empty SETTINGS frame, which is the answer, too."""


class Secured(Bench):
    """A bench whose processes have Ray's variables."""

    @property
    def variables(self) -> dict[str, str]:
        certificate, key = self.home / "tls.crt", self.home / "tls.key"
        return {"RAY_USE_TLS": "1", **dict(zip(FILES, map(str, (certificate, key, certificate)), strict=True))}

    def run(self, code: str, *, timeout: float = 400, **environment: str) -> str:
        return super().run(code, timeout=timeout, **{**self.variables, **environment})

    def fails(self, code: str, *, timeout: float = 60, **environment: str) -> str:
        return super().fails(code, timeout=timeout, **{**self.variables, **environment})


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    bench = Secured(tmp_path_factory.mktemp("secured"))
    make_pair(bench.home, hosts=[f"127.0.0.{number}" for number in range(2, 6)])
    try:
        assert "nodes speak TLS to each other" in bench.run(UP)
        yield bench
    finally:
        bench.run(DOWN)


def test_tasks_and_jobs_run_where_they_ask(secured: Secured) -> None:
    where = secured.run(WHERE)
    assert '"data": "127.0.0.3", "train": "127.0.0.4", "serve": "127.0.0.5"' in where
    assert "true joined 127.0.0.2:" in where
    said = secured.run(JOB)
    assert "joined 127.0.0.2:" in said
    assert said.endswith("exit 0\n")


def test_a_client_without_tls_or_with_another_authority_is_told(secured: Secured, tmp_path: Path) -> None:
    assert "speaks TLS, and RAY_USE_TLS is not on here" in secured.fails(WHERE, RAY_USE_TLS="0")
    other = make_pair(tmp_path, "other")[0]
    assert "not trusted here" in secured.fails(WHERE, RAY_TLS_CA_CERT=str(other))


def test_no_port_takes_grpc_without_a_certificate(secured: Secured) -> None:
    ports = listening(secured.processes())
    takes_with_one = [port for port, host in ports.items() if takes_grpc(host, port, context(secured.home))]
    assert len(takes_with_one) > 10  # the GCS; of each node the raylet, its object manager and its agent
    assert [port for port, host in ports.items() if takes_grpc(host, port, context(None))] == []
    assert [port for port, host in ports.items() if takes_grpc(host, port, None)] == []


def listening(processes: list[psutil.Process]) -> dict[int, str]:
    """Port -> an address under which it can be reached."""
    found = [c.laddr for p in processes for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    return {at.port: "127.0.0.2" if at.ip in ("0.0.0.0", "::") else at.ip.removeprefix("::ffff:") for at in found}


def context(home: Path | None) -> ssl.SSLContext:
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    found.check_hostname, found.verify_mode = False, ssl.CERT_NONE
    found.set_alpn_protocols(["h2"])
    if home:
        found.load_cert_chain(home / "tls.crt", home / "tls.key")
    return found


def takes_grpc(host: str, port: int, secure: ssl.SSLContext | None) -> bool:
    """Whether a server says so much as its settings. With TLS 1.3 a refusal of the client comes after its handshake."""
    try:
        with socket.create_connection((host, port), timeout=5) as plain:
            spoken = secure.wrap_socket(plain) if secure else plain
            spoken.sendall(PREFACE)
            return spoken.recv(9)[3:4] == b"\x04"
    except OSError:
        return False
