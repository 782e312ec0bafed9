"""A webhook's receiver that keeps what it is told."""

from __future__ import annotations

import http.server
import json
import threading
from typing import Any


class Listener(http.server.ThreadingHTTPServer):
    """Refuses until it is told to answer."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers, self.told = False, threading.Condition()
        self.messages: list[dict[str, Any]] = []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def wait(self, kind: str) -> list[str]:
        with self.told:
            assert self.told.wait_for(lambda: kind in self.kinds, timeout=60), self.kinds
            return self.kinds

    @property
    def kinds(self) -> list[str]:
        """In order, each message once."""
        once = {message["data"]["id"]: message["data"]["kind"] for message in self.messages}
        return list(once.values())


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Listener

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(204 if self.server.answers else 503)
        self.end_headers()
        if self.server.answers:
            with self.server.told:
                self.server.messages.append(body)
                self.server.told.notify_all()

    def log_message(self, *_: object) -> None:
        pass
