"""As much of the Hugging Face hub as `datasets` asks of it: one dataset, by revisions, over HTTP on this machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

Files = Mapping[str, bytes]


@dataclass
class Hub:
    """`revisions`: files by the name of a revision; a revision's commit is the hash of its name."""

    name: str
    revisions: Mapping[str, Files]
    url: str = ""
    asked: list[str] = field(default_factory=list)
    """Method and path of each request."""
    tokens: set[str] = field(default_factory=set)
    """Authorization that came with any."""

    def files(self, revision: str) -> tuple[str, Files] | None:
        """(commit, files) of a revision, by its name or commit."""
        known = {commit_of(name): files for name, files in self.revisions.items()}
        commit = commit_of(revision) if revision in self.revisions else revision
        return (commit, known[commit]) if commit in known else None


def commit_of(name: str) -> str:
    return hashlib.sha1(name.encode()).hexdigest()  # git's


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    class Handler(_Handler):
        of = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    of: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def _answer(self, body: bytes = b"") -> None:
        self.of.asked.append(f"{self.command} {self.path}")
        if token := self.headers.get("Authorization"):
            self.of.tokens.add(token)
        path = self.path.partition("?")[0]
        api, plain = f"/api/datasets/{self.of.name}/", f"/datasets/{self.of.name}/resolve/"
        if path.startswith(plain):
            self._file(*path.removeprefix(plain).split("/", 1))
        elif path == api.rstrip("/"):
            self._info("main")
        elif path.startswith(api):
            what, _, rest = path.removeprefix(api).partition("/")
            revision, _, inner = rest.partition("/")
            match what:
                case "revision":
                    self._info(revision)
                case "tree":
                    self._listed(revision, lambda name: name.rpartition("/")[0] == inner)
                case "paths-info":
                    wanted = json.loads(body)["paths"] if body[:1] == b"{" else []
                    self._listed(revision, lambda name: name in wanted)
                case _:
                    self._none("EntryNotFound")
        else:
            self._none("RepoNotFound")

    def _info(self, revision: str) -> None:
        if (found := self.of.files(revision)) is None:
            return self._none("RevisionNotFound")
        siblings = [{"rfilename": name} for name in found[1]]
        about = {"id": self.of.name, "sha": found[0], "private": False, "tags": [], "downloads": 0, "likes": 0}
        return self._json({**about, "siblings": siblings})

    def _listed(self, revision: str, is_asked: Callable[[str], bool]) -> None:
        """Files, and the folders that they lie in."""
        if (found := self.of.files(revision)) is None:
            return self._none("RevisionNotFound")
        folders = {"/".join(name.split("/")[:depth]) for name in found[1] for depth in range(1, name.count("/") + 1)}
        told = [{"type": "directory", "path": name, "oid": "0", "size": 0} for name in sorted(folders)]
        told += [{"type": "file", "path": n, "size": len(c), "oid": _etag(c)} for n, c in found[1].items()]
        return self._json([one for one in told if is_asked(str(one["path"]))])

    def _file(self, revision: str, name: str) -> None:
        if (found := self.of.files(revision)) is None:
            return self._none("RevisionNotFound")
        commit, files = found
        if name not in files:
            return self._none("EntryNotFound", commit)
        return self._send(200, files[name], {"ETag": f'"{_etag(files[name])}"', "X-Repo-Commit": commit})

    def _none(self, code: str, commit: str = "") -> None:
        told = {"X-Error-Code": code, "X-Error-Message": code}
        self._send(404, b"{}", {**told, "X-Repo-Commit": commit} if commit else told)

    def _json(self, answer: Any) -> None:
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
