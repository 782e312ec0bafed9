"""What a gateway costs: the same load through bare vLLM, through ray.serve.llm's own ingress and through serinus.

    python benchmarks/bench_gateway.py --sides bare,serinus,proxied     # also: serinus behind Serve's proxy
    python benchmarks/bench_gateway.py                      # an engine that answers at once: the way there and back alone
    python benchmarks/bench_gateway.py --engine FOLDER      # real vLLM with the Hugging Face model in that folder, on CPUs
    python benchmarks/bench_gateway.py --engine FOLDER --pin    # the engines on cores of their own, as on GPUs

All sides run at the same time and are loaded one after another in rounds, each round in another order: what the machine does
beside hits all of them. Figures are means over rounds with 95 % intervals (Student's t; of ratios, on their logarithms).
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from gateway_client import Answer, Client, load
from gateway_sides import INSTANT, NAME
from scipy import stats

SIDES = ("bare", "ray", "serinus")
READY_TIMEOUT_S = 240.0
ENGINE_PROCESSES = ("VLLM::Worker", "VLLM::EngineCore")
"""What vLLM calls the process that computes, the first of them that there is: on CPUs `vllm serve` has a worker behind the core.
Its API server, and in Ray the replica around it, are others."""
QUESTION = "Tell me in some detail what a canary was good for in a mine, and what came after it. My number is {}."


@dataclass(frozen=True)
class Plan:
    """How much is asked in one round of one side."""

    alone: int
    """Requests one after another."""
    together: int
    """Requests by `concurrency` clients."""
    concurrency: int
    max_tokens: int


@dataclass(frozen=True)
class Round:
    """One side in one round: medians over its requests, in seconds."""

    ttft_s: float
    tpot_s: float
    ttft_together_s: float
    tpot_together_s: float
    tokens_per_s: float
    """At the plan's concurrency."""
    cpu_s: float
    """CPU time of all the side's processes for one of the requests that came together."""
    cpu_of_s: Counter[str]
    """The same by process."""


class Side:
    """One server and the processes below it."""

    def __init__(self, name: str, engine: str, pinned: bool) -> None:
        self.name, self.port = name, free_port()
        script = Path(__file__).with_name("gateway_sides.py")
        command = [sys.executable, str(script), name, engine, str(self.port)]
        root = str(Path(__file__).resolve().parents[1])
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])]),
            "RAY_worker_niceness": "0",  # as bare's processes have it
        }
        if pinned:  # no more threads than cores: they wait for each other after each layer
            environment["OMP_NUM_THREADS"] = str(len(engine_cores()))
        self.log = Path(f"bench_gateway_{name}.log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def wait(self) -> None:
        """Until it has answered."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while True:
            try:
                asyncio.run(Client(self.port).ask(body(0, 4)))
                return
            except (OSError, RuntimeError) as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"{self.name} does not answer ({error!r}): see {self.log}")
                time.sleep(0.5)

    def cpu_s(self) -> Counter[str]:
        """CPU time of its processes so far, by what they are called."""
        own, total = psutil.Process(self.process.pid), Counter[str]()
        for process in [own, *own.children(recursive=True)]:
            try:
                times, command = process.cpu_times(), " ".join(process.cmdline()[:1])
            except psutil.NoSuchProcess:
                continue
            total[Path(command).name if "::" not in command else command] += times.user + times.system
        return total

    def pin(self) -> None:
        """What computes to the first half of the cores, all else of the side to the others."""
        own = psutil.Process(self.process.pid)
        others = sorted(os.sched_getaffinity(0) - engine_cores())
        names = {process: " ".join(process.cmdline()) for process in [own, *own.children(recursive=True)]}
        engine = next((e for e in ENGINE_PROCESSES if any(e in name for name in names.values())), INSTANT)
        for process, name in names.items():
            for thread in process.threads():
                os.sched_setaffinity(thread.id, engine_cores() if engine in name else others)

    def end(self) -> None:
        left = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        self.process.terminate()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        for process in psutil.wait_procs(left, timeout=10)[1]:
            process.kill()


def engine_cores() -> set[int]:
    """The first half of what this process may use."""
    cores = sorted(os.sched_getaffinity(0))
    return set(cores[: max(1, len(cores) // 2)])


@contextmanager
def running(names: list[str], engine: str, pinned: bool) -> Iterator[list[Side]]:
    with ExitStack() as stack:
        sides = []
        for name in names:  # one after another: their starts need the cores
            sides.append(Side(name, engine, pinned))
            stack.callback(sides[-1].end)
            sides[-1].wait()
        yield sides


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def body(number: int, max_tokens: int) -> dict[str, Any]:
    message = {"role": "user", "content": QUESTION.format(number)}
    return {"model": NAME, "messages": [message], "max_tokens": max_tokens, "temperature": 0, "stream": True,
            "ignore_eos": True}  # fmt: skip


def measure(side: Side, plan: Plan, seed: int) -> Round:
    first = 10_000 * seed
    alone, _ = asyncio.run(load(side.port, [body(first + n, plan.max_tokens) for n in range(plan.alone)], 1))
    before_s = side.cpu_s()
    bodies = [body(first + plan.alone + n, plan.max_tokens) for n in range(plan.together)]
    together, took_s = asyncio.run(load(side.port, bodies, plan.concurrency))
    spent = side.cpu_s() - before_s
    return Round(
        *_medians(alone),
        *_medians(together),
        tokens_per_s=sum(answer.num_tokens for answer in together) / took_s,
        cpu_s=spent.total() / plan.together,
        cpu_of_s=Counter({name: seconds / plan.together for name, seconds in spent.items()}),
    )


def _medians(answers: list[Answer]) -> tuple[float, float]:
    return statistics.median(a.ttft_s for a in answers), statistics.median(a.tpot_s for a in answers)


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and its 95 % interval (Student 1908)."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return mean, math.nan, math.nan
    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def ratio(ours: list[float], theirs: list[float]) -> tuple[float, float, float]:
    """Geometric mean of the rounds' ratios, and its interval."""
    mean, low, high = interval([math.log(a / b) for a, b in zip(ours, theirs, strict=True)])
    return math.exp(mean), math.exp(low), math.exp(high)


def report(rounds: dict[str, list[Round]], plan: Plan) -> None:
    columns = {
        "ttft_s": ("ttft ms, 1", 1e3), "tpot_s": ("tpot ms, 1", 1e3), "ttft_together_s": (f"ttft ms, {plan.concurrency}", 1e3),
        "tpot_together_s": (f"tpot ms, {plan.concurrency}", 1e3), "tokens_per_s": (f"tokens/s, {plan.concurrency}", 1),
        "cpu_s": ("CPU ms a request", 1e3),
    }  # fmt: skip
    print("| side | " + " | ".join(title for title, _ in columns.values()) + " |")
    print("|---|" + "---|" * len(columns))
    for name, found in rounds.items():
        cells = []
        for field, (_, scale) in columns.items():
            mean, low, high = interval([getattr(r, field) * scale for r in found])
            cells.append(f"{mean:.4g} ({low:.4g} to {high:.4g})")
        print(f"| {name} | " + " | ".join(cells) + " |")
    print()
    for name, found in rounds.items():
        spent = sum((r.cpu_of_s for r in found), Counter[str]())
        parts = (f"{what} {1e3 * seconds / len(found):.2f}" for what, seconds in spent.most_common(4))
        print(f"{name}: CPU ms a request by process: {', '.join(parts)}")
    print()
    if "bare" not in rounds:
        return
    for name in [name for name in rounds if name != "bare"]:
        pairs = list(zip(rounds[name], rounds["bare"], strict=True))
        mean, low, high = interval([(a.ttft_s - b.ttft_s) * 1e3 for a, b in pairs])
        print(f"{name}: added ttft at concurrency 1: {mean:.2f} ms ({low:.2f} to {high:.2f})")
        mean, low, high = ratio([a.tokens_per_s for a, _ in pairs], [b.tokens_per_s for _, b in pairs])
        print(
            f"{name}: throughput at {plan.concurrency}: {100 * mean:.1f} % of bare ({100 * low:.1f} to {100 * high:.1f})"
        )


def machine() -> str:
    model = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.machine())  # fmt: skip
    memory = psutil.virtual_memory().total / 2**30
    load_1 = os.getloadavg()[0]
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()}, load before: {load_1:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default=INSTANT, help="folder of a model for real vLLM; default: answers at once")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--alone", type=int, default=40, help="requests a round at concurrency 1")
    parser.add_argument("--together", type=int, default=128, help="requests a round at --concurrency")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--pin", action="store_true", help="engines on one half of the cores, all else on the other")
    given = parser.parse_args()
    plan = Plan(given.alone, given.together, given.concurrency, given.max_tokens)
    print(f"{machine()}\nengine {given.engine}, {given.rounds} rounds, {plan}\n", flush=True)
    rounds: dict[str, list[Round]] = {name: [] for name in given.sides.split(",")}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a time limit ends the sides too
    with running(list(rounds), given.engine, given.pin) as sides:
        for side in sides:
            measure(side, plan, 0)  # to warm up
            if given.pin:
                side.pin()  # after that, for the threads that only work makes
        for number in range(1, given.rounds + 1):
            order = sides[number % len(sides) :] + sides[: number % len(sides)]
            found = {side.name: measure(side, plan, number) for side in order}
            for name, of_side in found.items():
                rounds[name].append(of_side)
            print(f"round {number}: " + ", ".join(brief(name, found[name]) for name in rounds), flush=True)
    report(rounds, plan)


def brief(name: str, found: Round) -> str:
    return f"{name} {found.ttft_s * 1e3:.2f} ms, {found.tokens_per_s:.0f} tokens/s"


if __name__ == "__main__":
    main()
