"""The demo: raw text to a model in production, a rollout that is promoted, and one that is rolled back.

    make demo        (or: python recipes/demo.py)

Each scene is the command a user would type, shown before it runs. What is already made is skipped, so a second run is
quick. The summary at the end reads every number from a manifest, a report or a log file, and names it.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
from rich.console import Console

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(HERE))

from quickstart.prepare import prepare  # noqa: E402

from cluster import artifacts, registry  # noqa: E402
from cluster.artifacts import Checkpoint, Dataset, EvalReport, GateReport, QuantizedModel, Revision  # noqa: E402
from cluster.config import load_yaml  # noqa: E402
from cluster.storage import Storage, open_storage  # noqa: E402
from pipelines.evaluation.explain import mark  # noqa: E402
from serinus_recipe import Recipe  # noqa: E402
from services.rollout import controller  # noqa: E402
from services.rollout.status import RolloutStatus, read_rollout_status, rollout_ids  # noqa: E402

RECIPE = HERE / "quickstart.yaml"
BUILD = ROOT / "build" / "quickstart"
LOADS = BUILD / "load"

out = Console(highlight=False, soft_wrap=True)


def main() -> None:
    began = time.monotonic()
    recipe = load_yaml(RECIPE, Recipe)
    storage = open_storage(recipe.storage)

    scene("1/6  the input: CPython's documentation topics, files with planted dirt, SmolLM2-135M-Instruct")
    prepare(BUILD)
    scene("2/6  a cluster on this machine: a head, and a node for each pool")
    serinus("up", "--topology", str(ROOT / "ray_cluster.yaml"))
    scene("3/6  raw text to a published candidate: clean, train, evaluate, quantize, gate, publish")
    serinus("run", str(RECIPE))
    scene("4/6  the base model goes into production; then the candidate, 1 % of the users first")
    serinus("deploy", str(RECIPE))
    good = rollout_of_the_candidate(recipe, storage)
    scene("5/6  the same with a broken revision: right weights, published with a context of 16 tokens")
    bad = rollout_of_a_broken_revision(recipe, storage)
    scene(f"6/6  summary, {time.monotonic() - began:.0f} s after the start")
    summarize(recipe, storage, good, bad)


# --- scenes -----------------------------------------------------------------------------------------------------------


def rollout_of_the_candidate(recipe: Recipe, storage: Storage) -> RolloutStatus:
    aliases = registry.aliases(storage, recipe.name)
    if "candidate" in aliases:
        return roll_out(recipe, storage, aliases["candidate"], "promoted")
    for done in rollouts(storage, recipe.name):
        if done.candidate == aliases["stable"] and done.phase == "promoted":
            out.print(f"already in production: {done.candidate}, promoted by rollout {done.id}")
            return done
    sys.exit("the candidate was rolled back or taken out: see `serinus canary status`; `make clean` starts afresh")


def rollout_of_a_broken_revision(recipe: Recipe, storage: Storage) -> RolloutStatus:
    broken = publish_broken(recipe, storage)
    for done in rollouts(storage, recipe.name):
        if done.candidate == broken.revision and done.phase == "rolled_back":
            out.print(f"already shown: {broken.revision} was rolled back by rollout {done.id}")
            return done
    return roll_out(recipe, storage, broken.revision, "rolled_back")


def publish_broken(recipe: Recipe, storage: Storage) -> Revision:
    """What a slip of the pen does: the stable model again, with an engine setting that cannot serve its users."""
    stable = registry.resolve(storage, recipe.name, "stable")
    broken = stable.replace(
        key=artifacts.stage_key("break", 16, {"revision": stable.digest}),
        inputs={"revision": stable.digest},
        revision=f"{stable.revision}-broken",
        engine={"max_model_len": 16},
    )
    registry.publish_revision(storage, broken)
    return artifacts.save(storage, broken)


def roll_out(recipe: Recipe, storage: Storage, revision: str, expected: str) -> RolloutStatus:
    """Start the rollout, bring users, and watch it to its end; the users stay for some seconds after that."""
    before = controller.status(storage, recipe.name)
    if before is not None and not before.ended:  # left by an interrupted demo: its evidence has a hole
        serinus("canary", "rollback", "--recipe", str(RECIPE))
        serinus("canary", "watch", "--recipe", str(RECIPE), accept=(0, 1))
    serinus("canary", "start", "--revision", revision, "--recipe", str(RECIPE))
    with load(recipe, LOADS / f"{revision}.jsonl"):
        serinus("canary", "watch", "--recipe", str(RECIPE), accept=(0, 1))
        time.sleep(5)  # what users meet after the decision is part of the picture
    found = controller.status(storage, recipe.name)
    assert found is not None
    assert found.candidate == revision
    if found.phase != expected:
        sys.exit(f"{revision} was to be {expected} and is {found.phase}: see `serinus canary status`")
    return found


@contextmanager
def load(recipe: Recipe, log: Path) -> Iterator[None]:
    """Five thousand users, sixteen at a time, until the block ends."""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    stop = log.with_suffix(".stop")
    stop.unlink(missing_ok=True)
    url = f"http://{recipe.serve.host}:{recipe.serve.port}"
    command = [sys.executable, str(ROOT / "benchmarks" / "load.py"), "--url", url, "--model", recipe.name]
    command += ["--users", "5000", "--concurrency", "16", "--max-tokens", "2", "--duration", "900"]
    command += ["--until-file", str(stop), "--log", str(log)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            stop.touch()
            process.wait(timeout=60)


# --- summary ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chain:
    """The manifests behind the revision that the lifecycle published."""

    dataset: Dataset
    trained: Checkpoint
    quantized: QuantizedModel
    gate: GateReport
    base_report: EvalReport
    trained_report: EvalReport
    quantized_report: EvalReport


def chain_of(storage: Storage, revision: str, name: str) -> Chain:
    def find(digest: str) -> artifacts.Manifest:
        found = artifacts.find(storage, digest)
        assert found is not None, f"no manifest has the digest {digest}"
        return found

    published = registry.resolve(storage, name, revision)
    gate, quantized = find(published.inputs["gate"]), find(published.inputs["weights"])
    trained = find(quantized.inputs["model"])
    reports = [find(gate.inputs[role]) for role in ("base", "trained", "quantized")]
    parts = (find(quantized.inputs["dataset"]), trained, quantized, gate, *reports)
    return Chain(*parts)  # type: ignore[arg-type]


def summarize(recipe: Recipe, storage: Storage, good: RolloutStatus, bad: RolloutStatus) -> None:
    chain = chain_of(storage, good.candidate, recipe.name)
    out.print(f"Everything below stands in {storage.uri}")
    figures("documents", [chain.dataset.summary], manifest(chain.dataset))
    figures("training", [chain.trained.summary], manifest(chain.trained))
    figures("evaluation", list(comparison(chain)), manifest(chain.gate))
    figures("quantized", [chain.quantized.summary], manifest(chain.quantized))
    figures("gate", [mark(c) + c.message for c in chain.gate.checks], manifest(chain.gate))
    for title, status in (("rollout", good), ("broken", bad)):
        figures(title, list(rollout_lines(status)), f"rollouts/{status.name}/{status.id}/status.json")
        log = LOADS / f"{status.candidate}.jsonl"
        figures("users", list(user_lines(status, log)), str(log.relative_to(ROOT)))
    how_to_go_on(recipe)


def manifest(artifact: artifacts.Manifest) -> str:
    return f"{artifact.location}/manifest.json"


def figures(title: str, lines: Sequence[str], source: str) -> None:
    out.print(f"\n[bold cyan]{title}[/]  [dim]{source}[/]")
    for line in lines:
        out.print(f"  {line}", markup=False)


def comparison(chain: Chain) -> Iterator[str]:
    yield f"{'':<24}{'base':>10}{'trained':>10}{'quantized':>11}   recovery (quantized / base)"
    for score in chain.base_report.scores:
        after = (chain.trained_report, chain.quantized_report)
        trained, quantized = (report.score(score.task, score.metric) for report in after)
        ratio = quantized.value / score.value if score.value else float("nan")
        name = score.task if score == chain.base_report.score(score.task) else f"  {score.metric}"
        yield f"{name:<24}{score.value:>10.3f}{trained.value:>10.3f}{quantized.value:>11.3f}   {ratio:.1%}"


def rollout_lines(status: RolloutStatus) -> Iterator[str]:
    yield f"{status.candidate} against {status.stable}: {status.phase}"
    for decision in status.decisions:
        yield f"{decision.at:%H:%M:%S} {decision.weight_percent:5g} %  {decision.verdict:<12} {decision.message}"


def user_lines(status: RolloutStatus, log: Path) -> Iterator[str]:
    """What the load generator's users met, before and after the verdict."""
    if not log.exists():
        yield "the log of that load is no longer there"
        return
    requests = [json.loads(line) for line in log.read_text().splitlines()]
    failed = [r for r in requests if not r["ok"]]
    yield f"{len(requests)} requests, {len(failed)} failed"
    if status.phase == "rolled_back" and status.decided_at and status.weight_applied_at:
        after = [r for r in requests if datetime.fromtimestamp(r["at"], UTC) > status.decided_at]
        yield f"sent after the decision: {len(after)}, of these failed: {sum(not r['ok'] for r in after)}"
        yield f"weight 0 on every gateway {(status.weight_applied_at - status.decided_at).total_seconds():.2f} s after it"


def how_to_go_on(recipe: Recipe) -> None:
    url = f"http://{recipe.serve.host}:{recipe.serve.port}/v1"
    body = json.dumps({"model": recipe.name, "messages": [{"role": "user", "content": "What is a lambda in Python?"}],
                       "max_tokens": 48})  # fmt: skip
    answer = httpx.post(
        f"{url}/chat/completions", content=body, headers={"content-type": "application/json"}, timeout=60
    )
    reply = answer.json()["choices"][0]["message"]["content"]
    out.print(f"\n[bold]The model is running.[/] It says: {reply[:200]!r}\n")
    out.print("Try next:", markup=False)
    out.print(f"  curl {url}/chat/completions -H 'content-type: application/json' -d {shlex.quote(body)}", markup=False)
    out.print("  .venv/bin/serinus canary status", markup=False)
    out.print("  .venv/bin/serinus lineage stable", markup=False)
    out.print("Stop it with: make down", markup=False)


# --- small parts ------------------------------------------------------------------------------------------------------


def scene(title: str) -> None:
    out.print(f"\n[bold yellow]{title}[/]")


def serinus(*arguments: str, accept: Sequence[int] = (0,)) -> None:
    out.print(f"[dim]$ serinus {' '.join(arguments)}[/]")
    code = subprocess.run([sys.executable, "-m", "serinus", *arguments], cwd=ROOT).returncode
    if code not in accept:
        sys.exit(code)


def rollouts(storage: Storage, name: str) -> list[RolloutStatus]:
    """Every rollout on record, newest first."""
    statuses = [read_rollout_status(storage, name, rollout) for rollout in rollout_ids(storage, name)]
    found = [status for status in statuses if status]
    return sorted(found, key=lambda status: status.started_at, reverse=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(
            "\ninterrupted. What was made is kept; `make demo` continues from there, `make down` stops the cluster"
        )
