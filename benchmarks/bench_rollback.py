"""How fast a canary that turns bad is out, and what its users meet meanwhile: three gateways, the controller, real HTTP.

    python benchmarks/bench_rollback.py [--trials 3]

The canary has its share of the users and answers well; then, on command, each of its answers (or every fifth) ends in an error
inside the HTTP 200 stream, which nobody can answer in its place. Moments are those of the load generator's log and of the
rollout's own status, on one clock. The engines answer at once; gateway, evidence, verdict and Ray Serve are the product's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from bench_gateway import free_port, machine
from gateway_sides import chunk

from cluster import registry
from cluster.artifacts import Revision
from cluster.session import joined
from cluster.storage import LocalStorage
from services.config import RolloutConfig, ServingConfig, StepConfig
from services.engines import EngineReport
from services.rollout import controller
from services.rollout.status import RolloutStatus

NAME, NUM_GATEWAYS, WEIGHT_PERCENT = "bench", 3, 10.0
BEFORE_S, AFTER_S = 8.0, 4.0
"""The canary serves well for so long; the load goes on for so long after the weight is 0."""


class Engine:
    """A model server's protocol, answering at once; bad while the switch's file says which share of answers is to fail."""

    def __init__(self, revision: str, switch: Path) -> None:
        import ray.serve.llm.openai_api_models  # noqa: F401  # requests are of its types

        self.revision, self.switch, self.number = revision, switch, 0

    async def follow_order(self) -> dict[str, Any]:
        """What a model server says of itself when a rollout asks for its replicas."""
        from ray import serve

        return EngineReport(replica=serve.get_replica_context().replica_id.unique_id).model_dump()

    async def chat(self, request: Any, info: Any) -> AsyncIterator[list[str]]:
        self.number += 1
        every = int(self.switch.read_text()) if self.switch.exists() else 0
        yield [chunk(self.revision, {"role": "assistant", "content": ""})]
        yield [chunk(self.revision, {"content": "word"})]
        if every and self.number % every == 0:
            yield ['data: {"error": {"message": "failed", "type": "InternalServerError", "code": 500}}\n\n']
        else:
            yield [chunk(self.revision, {}, "stop")]
        yield ["data: [DONE]\n\n"]


@dataclass(frozen=True)
class Trial:
    """One rollback. Durations in seconds."""

    to_verdict_s: float
    """From the first bad answer's sending to the decision."""
    to_zero_s: float
    """From the decision until each gateway has told that it applies weight 0."""
    bad_answers: int
    canary_answers: int
    """Good and bad, from the first bad one to the verdict: what the verdict rests on."""
    after_verdict: int
    """Bad answers to requests sent after the decision."""
    after_zero: int
    requests_per_s: float


def config(interval_s: float) -> RolloutConfig:
    """The defaults, with one long step at a weight that gives evidence on this machine's load."""
    step = StepConfig(weight_percent=WEIGHT_PERCENT, min_duration_s=600)
    return RolloutConfig(steps=(step,), interval_s=interval_s, latency_floor_s=10)  # errors alone decide


def deploy(storage: LocalStorage, folder: Path, revisions: list[str], serving: ServingConfig) -> str:
    """Stable and all candidates, three gateways and the controller; returns the base URL."""
    from ray import serve

    from services.contract import MODEL_DEPLOYMENT, application_name
    from services.serving import address, app
    from services.serving.hops import REPLICA_ENVIRONMENT

    address.listen(serving)
    options = {"num_cpus": 0, "runtime_env": {"env_vars": dict(REPLICA_ENVIRONMENT)}}
    model: Any = serve.deployment(Engine, name=MODEL_DEPLOYMENT, max_ongoing_requests=200, ray_actor_options=options)
    targets = []
    for number, revision in enumerate(revisions):
        made = Revision(key=f"{number:016x}", name=NAME, revision=revision, weights="w")
        registry.publish_revision(storage, made)
        bound = model.bind(revision, folder / f"{revision}.switch")
        targets.append(serve.RunTarget(bound, name=application_name(revision), route_prefix=None))
    serve.run_many(targets, wait_for_applications_running=True)
    controller.ensure_traffic(storage, NAME, revisions[0])
    controller.ensure_controller(NAME, storage.uri)
    app.deploy_gateway(NAME, serving, storage.uri)
    return app.gateway_url(serving)


@dataclass(frozen=True)
class World:
    """What is deployed."""

    storage: LocalStorage
    folder: Path
    url: str


def trial(world: World, revision: str, every: int, interval_s: float) -> Trial:
    storage, folder = world.storage, world.folder
    log, stop = folder / f"{revision}.jsonl", folder / f"{revision}.stop"
    command = [sys.executable, str(Path(__file__).with_name("load.py")), "--url", world.url, "--model", NAME]
    command += ["--users", "5000", "--concurrency", "8", "--stream-share", "1", "--duration", "300"]
    command += ["--until-file", str(stop), "--log", str(log)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL):
        try:
            controller.start_rollout(storage, NAME, revision, config(interval_s))
            wait(lambda: status(storage).weight_applied_at is not None)
            time.sleep(BEFORE_S)
            (folder / f"{revision}.switch").write_text(str(every))
            wait(lambda: status(storage).phase in ("rolling_back", "rolled_back"))
            wait(lambda: status(storage).weight_applied_at is not None)
            time.sleep(AFTER_S)
        finally:
            stop.touch()
    ended = wait(lambda: status(storage).ended and status(storage))
    return told(ended, [json.loads(line) for line in log.read_text().splitlines()], revision)


def told(ended: RolloutStatus, requests: list[dict[str, Any]], revision: str) -> Trial:
    assert ended.phase == "rolled_back", ended.phase
    assert ended.decided_at is not None
    assert ended.weight_applied_at is not None
    verdict, zero = ended.decided_at.timestamp(), ended.weight_applied_at.timestamp()
    bad = [request for request in requests if not request["ok"]]
    first = min(request["at"] for request in bad)
    seen = [r for r in requests if r["revision"] == revision and first <= r["at"] <= verdict]
    span_s = requests[-1]["at"] - requests[0]["at"]
    return Trial(
        to_verdict_s=verdict - first,
        to_zero_s=zero - verdict,
        bad_answers=len(bad),
        canary_answers=len(seen),
        after_verdict=sum(request["at"] > verdict for request in bad),
        after_zero=sum(request["at"] > zero for request in bad),
        requests_per_s=len(requests) / span_s,
    )


def status(storage: LocalStorage) -> RolloutStatus:
    found = controller.status(storage, NAME)
    assert found is not None
    return found


def wait(condition: Callable[[], Any], timeout_s: float = 120.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            sys.exit(f"not within {timeout_s:g} s")
        time.sleep(0.02)
    return found


def report(title: str, trials: list[Trial]) -> str:
    def cell(field: str, form: str = ".0f") -> str:
        values = [getattr(trial, field) for trial in trials]
        return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"

    fields = ("bad_answers", "canary_answers", "after_verdict", "after_zero", "requests_per_s")
    cells = [cell("to_verdict_s", ".2f"), cell("to_zero_s", ".2f"), *(cell(field) for field in fields)]
    return f"| {title} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=3)
    given = parser.parse_args()
    kinds = [("every answer, a look every 5 s", 1, 5.0), ("every answer, every 1 s", 1, 1.0)]
    kinds += [("every 5th answer, every 5 s", 5, 5.0)]
    revisions = [f"{NAME}-{number:08x}" for number in range(1 + len(kinds) * given.trials)]
    print(f"{machine()}\n{NUM_GATEWAYS} gateways, the canary at {WEIGHT_PERCENT:g} %; medians (least to most) of "
          f"{given.trials} trials\n", flush=True)  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="bench-rollback") as root, joined():
        import ray
        from ray import serve

        folder, storage = Path(root), LocalStorage(Path(root) / "storage")
        serving = ServingConfig(port=free_port(), num_gateway_replicas=NUM_GATEWAYS)
        world = World(storage, folder, deploy(storage, folder, revisions, serving))
        question = {"model": NAME, "messages": [{"role": "user", "content": "hello"}], "stream": True}
        wait(lambda: httpx.post(f"{world.url}/chat/completions", json=question, timeout=30).status_code == 200)
        columns = ("first bad answer to verdict, s", "to weight 0 everywhere, s", "bad answers", "canary's until the verdict",
                   "bad, sent after it", "bad, sent after weight 0", "requests/s")  # fmt: skip
        print("| fails | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns), flush=True)
        waiting = iter(revisions[1:])
        for title, every, interval_s in kinds:
            trials = [trial(world, next(waiting), every, interval_s) for _ in range(given.trials)]
            print(report(title, trials), flush=True)
        ray.kill(controller.ensure_controller(NAME, storage.uri))
        serve.shutdown()


if __name__ == "__main__":
    main()
