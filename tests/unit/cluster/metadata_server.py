"""A server that speaks IMDSv2 as EC2's documentation has it: tokens by PUT, nothing without one, 404 for what is not there."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class MetadataServer(ThreadingHTTPServer):
    """What it was asked, and what it answers from now on."""

    def __init__(self, life_cycle: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port: int = self.server_address[1]
        self.asked: list[str] = []
        self.tokens: list[str] = []
        self.items = {"instance-life-cycle": life_cycle}
        self.status: int | None = None
        """Answered to every GET instead of what is right."""

    def take_back(self, in_s: float) -> None:
        """The notice, as EC2 writes it."""
        moment = datetime.now(UTC) + timedelta(seconds=in_s)
        self.items["spot/instance-action"] = json.dumps({"action": "terminate", "time": f"{moment:%Y-%m-%dT%H:%M:%SZ}"})

    def forget_tokens(self) -> None:
        """As at the end of their life."""
        self.tokens.clear()


class _Handler(BaseHTTPRequestHandler):
    server: MetadataServer

    def do_PUT(self) -> None:
        self.server.asked.append(self.path)
        life = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if self.path != "/latest/api/token" or not life.isdigit() or not 1 <= int(life) <= 21600:
            return self._answer(400)
        token = f"token-{len(self.server.asked)}=="
        self.server.tokens.append(token)
        return self._answer(200, token)

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.headers.get("X-aws-ec2-metadata-token") not in self.server.tokens:
            return self._answer(401)
        if self.server.status:
            return self._answer(self.server.status)
        item = self.server.items.get(self.path.removeprefix("/latest/meta-data/"))
        return self._answer(404) if item is None else self._answer(200, item)

    def _answer(self, status: int, text: str = "") -> None:
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", f"http://127.0.0.1:{self.server.port}/elsewhere")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Not to the tests' output."""


@contextmanager
def metadata_server(life_cycle: str = "spot") -> Iterator[MetadataServer]:
    """A server that runs while the block does."""
    with MetadataServer(life_cycle) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
