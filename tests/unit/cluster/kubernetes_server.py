"""A small Kubernetes API server over real HTTP: RayJobs, ConfigMaps, pods and their logs, watches, and what goes wrong."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "the-token"
JOBS = "/apis/ray.io/v1/namespaces/ns/rayjobs"
MAPS = "/api/v1/namespaces/ns/configmaps"
PODS = "/api/v1/namespaces/ns/pods"


class Server:
    """What it holds, in the open, and what it was asked."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        """Path -> object."""
        self.logs: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.failures: list[tuple[str, Callable[[Handler], None]]] = []
        """(beginning of "VERB path", what happens instead), each once, in order."""
        self.events: list[dict[str, Any]] = []
        """Every change of a job."""
        self.url = ""
        self._version = 100

    def put(self, path: str, document: dict[str, Any], kind: str = "MODIFIED") -> dict[str, Any]:
        self._version += 1
        document["metadata"] |= {"resourceVersion": str(self._version)}
        document["metadata"].setdefault("uid", f"uid-{self._version}")
        document["metadata"].setdefault("creationTimestamp", f"2026-11-28T08:00:{self._version % 60:02}Z")
        self.objects[path] = document
        if kind == "DELETED":
            del self.objects[path]
        if path.startswith(JOBS):
            self.events.append({"type": kind, "object": json.loads(json.dumps(document))})
        return document

    def job(self, name: str, deployment: str = "Running", job: str = "RUNNING", **status: str) -> None:
        """A job as the operator would leave it."""
        path = f"{JOBS}/{name}"
        document = json.loads(
            json.dumps(self.objects.get(path) or {"metadata": {"name": name}, "spec": {"entrypoint": "e"}})
        )
        document["status"] = {"jobDeploymentStatus": deployment, "jobStatus": job, **status}
        self.put(path, document)

    def pod(self, job: str, *lines: str) -> None:
        """The pod that submits `job` has printed these lines, a second apart."""
        self.objects[f"{PODS}/{job}-p"] = {
            "metadata": {"name": f"{job}-p", "labels": {"job-name": job}, "creationTimestamp": "2026-11-28T08:00:00Z"},
            "status": {"phase": "Running"},
        }
        stamped = (f"2026-11-28T08:00:{second:02}.5Z {line}\n" for second, line in enumerate(lines))
        self.logs[f"{job}-p"] = "".join(stamped).encode()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any
    body = b""

    def _do(self) -> None:
        state: Server = self.server.state
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        what = f"{self.command} {path}" + (" watch" if query.get("watch") else "")
        state.asked.append(what)
        body = self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.status(401, "Unauthorized")
        for index, (beginning, fails) in enumerate(state.failures):
            if what.startswith(beginning):
                del state.failures[index]
                return fails(self)
        return self._answer(state, path, query, body)

    do_GET = do_POST = do_PATCH = do_DELETE = _do

    def _answer(self, state: Server, path: str, query: dict[str, list[str]], body: bytes) -> None:
        match self.command:
            case "GET" if query.get("watch"):
                return self._watch(state, query)
            case "GET" if path.endswith("/log"):
                return self.reply(200, state.logs[path.split("/")[-2]], "text/plain")
            case "GET" if path in (JOBS, MAPS, PODS):
                return self.reply(200, {"kind": "List", "items": list(_chosen(state, path, query))})
            case "POST":
                document = json.loads(body)
                place = f"{path}/{document['metadata']['name']}"
                if place in state.objects:
                    return self.status(409, "already exists")
                return self.reply(201, state.put(place, document, "ADDED"))
        if path not in state.objects:
            return self.status(404, f'"{path.rpartition("/")[2]}" not found')
        if self.command == "PATCH":
            assert self.headers["Content-Type"] == "application/merge-patch+json" or path.startswith(MAPS)
            state.put(path, _merged(state.objects[path], json.loads(body)))
        return self.reply(200, state.objects.pop(path) if self.command == "DELETE" else state.objects[path])

    def _watch(self, state: Server, query: dict[str, list[str]]) -> None:
        """Changes after the version asked for, until the time is over or there was one."""
        name, since = query["fieldSelector"][0].partition("=")[2], int(query["resourceVersion"][0])
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        ends_at = time.monotonic() + int(query["timeoutSeconds"][0])
        while time.monotonic() < ends_at:
            for event in list(state.events):
                found = event["object"]["metadata"]
                if found["name"] == name and int(found["resourceVersion"]) > since:
                    self.wfile.write(json.dumps(event).encode() + b"\n")
                    return
            time.sleep(0.02)

    def status(self, code: int, message: str) -> None:
        self.reply(code, {"kind": "Status", "status": "Failure", "message": message, "code": code})

    def reply(self, code: int, content: dict[str, Any] | bytes, kind: str = "application/json") -> None:
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def dropped(handler: Handler) -> None:
    """The connection ends without an answer."""
    handler.close_connection = True
    handler.connection.close()


def after_it_was_done(handler: Handler) -> None:
    """The server does as it is told, and its answer is lost. For creations."""
    state: Server = handler.server.state
    body = json.loads(handler.body)
    state.put(f"{urlsplit(handler.path).path}/{body['metadata']['name']}", body, "ADDED")
    dropped(handler)


def refused(code: int, message: str) -> Callable[[Handler], None]:
    return lambda handler: handler.status(code, message)


def plain(code: int, text: str) -> Callable[[Handler], None]:
    """Without a Status object, as for a path that the server does not know."""
    return lambda handler: handler.reply(code, text.encode(), "text/plain")


@contextmanager
def serving() -> Iterator[Server]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        state = server.state = Server()  # type: ignore[attr-defined]
        state.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.02}).start()
        try:
            yield state
        finally:
            server.shutdown()


def _chosen(state: Server, path: str, query: dict[str, list[str]]) -> Iterator[dict[str, Any]]:
    wanted = dict(pair.split("=") for pair in query.get("labelSelector", [""])[0].split(",") if pair)
    for place, document in state.objects.items():
        if place.startswith(f"{path}/") and wanted.items() <= document["metadata"].get("labels", {}).items():
            yield document


def _merged(old: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    both = {key: _merged(old[key], value) if isinstance(value, dict) and isinstance(old.get(key), dict) else value
            for key, value in change.items()}  # fmt: skip
    return {**old, **both}
