"""Many users at once through real HTTP: the load of the demo and of the rollout benchmarks.

    python benchmarks/load.py --url http://127.0.0.1:8000 --model NAME --users 400 --concurrency 4 --duration 60

Each of `--concurrency` clients asks one question after another, each time as another user. Prints a JSON summary; with
`--log` writes a JSON line per request. Only loopback addresses are loaded, and never for longer than an hour.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import httpx

MAX_DURATION_S = 3600.0
REVISION_HEADER = "x-serinus-revision"
TOPICS = (
    "the with statement", "slices", "imports", "lambda expressions", "exceptions", "truth values", "comparisons",
    "attribute access", "the return statement", "class definitions", "string formatting", "operator precedence",
    "generators", "integers", "dictionaries", "assignment", "the del statement", "coroutines", "decorators", "scopes",
)  # fmt: skip
QUESTIONS = (
    "What are {} in Python?",
    "Explain {} in one sentence.",
    "When would one use {}?",
    "Give an example of {}.",
)
SYSTEM = "Be brief."
"""Without one SmolLM2's template tells it who it is, in 16 tokens; with this one a prompt has 23 to 25."""


@dataclass(frozen=True)
class Answer:
    """One request as its user saw it. Durations are seconds."""

    at: float
    """When it was sent, in seconds since 1970 (UTC)."""
    ok: bool
    user: str
    streamed: bool
    revision: str
    """From the answer's header; empty when there was none."""
    status: int
    """HTTP status; 0 when there was no answer."""
    problem: str
    """Empty when the user was served."""
    ttft_s: float | None
    duration_s: float


@dataclass
class _Reading:
    """What has been read of an answer."""

    pieces: int = 0
    problem: str = ""
    first_at: float | None = None
    done: bool = False

    def take(self, line: str) -> None:
        if not line.startswith("data:"):
            return
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            self.done = True
            return
        event = json.loads(data)
        if "error" in event:
            self.problem = "error inside the stream: " + str(event["error"])[:200]
        elif any(choice.get("delta", {}).get("content") for choice in event.get("choices", ())):
            self.pieces += 1
            self.first_at = self.first_at or time.monotonic()


@dataclass
class Load:
    """The clients, the users they play, and what came of it."""

    arguments: argparse.Namespace
    log: IO[str] | None
    answers: list[Answer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.arguments.seed)
        self.ends_at = 0.0

    async def run(self) -> None:
        limits = httpx.Limits(max_connections=self.arguments.concurrency)
        async with httpx.AsyncClient(timeout=self.arguments.timeout, limits=limits, trust_env=False) as client:
            self.ends_at = time.monotonic() + self.arguments.duration  # making the client may take its time
            await asyncio.gather(*(self._client(client) for _ in range(self.arguments.concurrency)))

    async def _client(self, client: httpx.AsyncClient) -> None:
        while not self._over():
            answer = await self._ask(client)
            self.answers.append(answer)
            if self.log:
                self.log.write(json.dumps(asdict(answer)) + "\n")
                self.log.flush()  # the demo reads along
            if not answer.status:
                await asyncio.sleep(0.2)  # nobody there: do not spin

    def _over(self) -> bool:
        until = self.arguments.until_file
        return time.monotonic() >= self.ends_at or (until is not None and until.exists())

    async def _ask(self, client: httpx.AsyncClient) -> Answer:
        user = f"user-{self.random.randrange(self.arguments.users)}"
        streamed = self.random.random() < self.arguments.stream_share
        body = self._body(user, streamed)
        # Half of the users are known by their key, half by the `user` field, as in life.
        headers = {} if "user" in body else {"authorization": f"Bearer {user}"}
        at, began = time.time(), time.monotonic()
        reading, revision, status = _Reading(), "", 0
        try:
            async with client.stream(
                "POST", f"{self.arguments.url}/v1/chat/completions", json=body, headers=headers
            ) as got:
                status, revision = got.status_code, got.headers.get(REVISION_HEADER, "")
                await (_read_stream(got, reading) if streamed and status < 400 else _read_whole(got, reading))
        except (httpx.HTTPError, ValueError) as error:
            reading.problem = reading.problem or f"{type(error).__name__}: {error}"[:200]
        ended = time.monotonic()
        ttft_s = reading.first_at - began if streamed and reading.first_at else None
        return Answer(
            at=at,
            ok=not reading.problem,
            user=user,
            streamed=streamed,
            revision=revision,
            status=status,
            problem=reading.problem,
            ttft_s=ttft_s,
            duration_s=ended - began,
        )

    def _body(self, user: str, streamed: bool) -> dict[str, Any]:
        question = self.random.choice(QUESTIONS).format(self.random.choice(TOPICS))
        body = {
            "model": self.arguments.model,
            "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}],
            "max_tokens": self.arguments.max_tokens,
            "temperature": 0,  # a sampled first token that ends the answer would look like a failure
            "stream": streamed,
        }
        return body if int(user.removeprefix("user-")) % 2 else {**body, "user": user}


async def _read_stream(response: httpx.Response, reading: _Reading) -> None:
    async for line in response.aiter_lines():
        reading.take(line)
    if not reading.problem and not reading.done:
        reading.problem = "the stream broke off"
    elif not reading.problem and not reading.pieces:
        reading.problem = "empty answer"


async def _read_whole(response: httpx.Response, reading: _Reading) -> None:
    content = await response.aread()
    if response.status_code >= 400:
        reading.problem = f"HTTP {response.status_code}: {content[:200].decode(errors='replace')}"
    elif not json.loads(content)["choices"][0]["message"]["content"]:
        reading.problem = "empty answer"


def summarize(answers: list[Answer]) -> dict[str, Any]:
    """Counts, failures with their moments, and quantiles (seconds) for each revision."""
    failures = [answer for answer in answers if answer.problem]
    by_revision = {
        revision: [a for a in answers if a.revision == revision] for revision in {a.revision for a in answers}
    }
    return {
        "requests": len(answers),
        "users": len({answer.user for answer in answers}),
        "failed": len(failures),
        "first_failure_at": min((_iso(answer) for answer in failures), default=None),
        "last_failure_at": max((_iso(answer) for answer in failures), default=None),
        "failures": [
            {"at": _iso(a), "revision": a.revision, "status": a.status, "problem": a.problem} for a in failures[:50]
        ],
        "revisions": {revision or "none": dict(_figures(of)) for revision, of in sorted(by_revision.items())},
    }


def _iso(answer: Answer) -> str:
    return datetime.fromtimestamp(answer.at, UTC).isoformat()


def _figures(answers: list[Answer]) -> Iterator[tuple[str, Any]]:
    yield "requests", len(answers)
    yield "users", len({answer.user for answer in answers})
    yield "problems", dict(Counter(answer.problem[:60] for answer in answers if answer.problem))
    served = [answer for answer in answers if not answer.problem]
    yield "ttft_s", _quantiles([answer.ttft_s for answer in served if answer.ttft_s is not None])
    yield "duration_s", _quantiles([answer.duration_s for answer in served])


def _quantiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {f"p{q}": round(ordered[min(len(ordered) - 1, q * len(ordered) // 100)], 4) for q in (50, 95, 99) if ordered}


def loopback_url(value: str) -> str:
    """The URL without a path, if it is on this machine; /v1 at its end is cut off."""
    parts = urlsplit(value)
    host = parts.hostname or ""
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if parts.scheme != "http" or not local:
        raise argparse.ArgumentTypeError(f"only http:// on a loopback address is loaded, found {value}")
    return f"http://{parts.netloc}"


def _duration(value: str) -> float:
    duration_s = float(value)
    if not 0 < duration_s <= MAX_DURATION_S:
        raise argparse.ArgumentTypeError(f"0 < duration <= {MAX_DURATION_S:g} s, found {value}")
    return duration_s


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", type=loopback_url, required=True, help="the gateway, e.g. http://127.0.0.1:8000")
    parser.add_argument("--model", required=True, help="public name")
    parser.add_argument("--users", type=int, default=400)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--max-tokens", type=int, default=8)
    parser.add_argument("--duration", type=_duration, default=60.0, help="seconds at most")
    parser.add_argument("--until-file", type=Path, help="end when this file appears")
    parser.add_argument("--stream-share", type=float, default=0.5, help="share of requests that stream")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds a user waits")
    parser.add_argument("--log", type=Path, help="write one JSON line per request")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    arguments = _arguments(given)
    log = arguments.log.open("w") if arguments.log else None
    load = Load(arguments, log)
    try:
        asyncio.run(load.run())
    except KeyboardInterrupt:
        pass  # what was measured until now is the answer
    finally:
        if log:
            log.close()
    print(json.dumps(summarize(load.answers), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
