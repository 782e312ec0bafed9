"""Where a gateway is reached by those on its machine."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator

import pytest

from services.config import ServingConfig
from services.serving.address import wait_answering
from services.serving.app import gateway_url


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8123/v1"),
        ("10.0.0.7", "http://10.0.0.7:8123/v1"),
        ("0.0.0.0", "http://127.0.0.1:8123/v1"),
        ("::1", "http://[::1]:8123/v1"),
    ],
)
def test_the_url_is_one_that_clients_here_can_use(host: str, url: str) -> None:
    assert gateway_url(ServingConfig(host=host, port=8123)) == url


class Models(http.server.BaseHTTPRequestHandler):
    """Answers as a gateway of which no key is asked."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/v1/models" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class OverIPv6(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6


@pytest.fixture
def port() -> Iterator[int]:
    """Of a server on IPv6's loopback address."""
    try:
        server = OverIPv6(("::1", 0), Models)
    except OSError:
        pytest.skip("this machine has no IPv6")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_gateway_on_an_ipv6_address_is_found_to_answer(port: int) -> None:
    wait_answering(ServingConfig(host="::1", port=port), {}, timeout_s=5)
