"""Functions that a model completes: what of its text is run, and what a program in the sandbox cannot do."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cluster.errors import ResourceError
from pipelines.config import EvaluateConfig
from pipelines.evaluation.code import sandbox
from pipelines.evaluation.code.functions import program
from pipelines.evaluation.code.running import check, with_tests
from pipelines.evaluation.compare import scores_of
from pipelines.evaluation.items import CodeItem
from pipelines.evaluation.scoring import answer
from pipelines.evaluation.tasks import build_items
from tests.unit.pipelines.evaluation.safety.world import FakeEngine, task, task_of

MIB = 1 << 20
HEAD = 'from typing import List\n\n\ndef total(numbers: List[int]) -> int:\n    """Add them up."""\n'
TEST = "def check(candidate):\n    assert candidate([1, 2]) == 3\n"
ITEM = CodeItem("t", "code", "1", HEAD, (), head=HEAD, test=TEST, function="total")


QUEUED = """
import ctypes, platform, struct
libc = ctypes.CDLL(None, use_errno=True)
info = ctypes.create_string_buffer(struct.pack("iii", 9, 0, -1).ljust(128, b"\\0"))
number = {"x86_64": 129, "aarch64": 138}[platform.machine()]  # rt_sigqueueinfo
assert libc.syscall(number, VICTIM, 9, info) == 0, ctypes.get_errno()
"""
OWNED = """
import fcntl, os
read, write = os.pipe()
fcntl.fcntl(read, fcntl.F_SETOWN, VICTIM)
fcntl.fcntl(read, 10, 9)  # F_SETSIG: SIGKILL when there is something to read
fcntl.fcntl(read, fcntl.F_SETFL, os.O_ASYNC)
os.write(write, b"x")
"""
FILLING = "for n in range(99):\n    with open(str(n), 'wb') as file:\n        file.write(b'a' * 1000000)"


def confines() -> bool:
    try:
        sandbox.check()
    except ResourceError:
        return False
    return True


confined = pytest.mark.skipif(not confines(), reason="this machine refuses user namespaces or Landlock")


@pytest.mark.parametrize(
    "text",
    [
        "    return sum(numbers)\n",
        "    return sum(numbers)\n\n\ndef main():\n    raise ValueError\nmain()\n",
        "    return sum(numbers)\n# and so on\nnonsense here",
        "Sure! Here it is:\n```python\ndef total(numbers: List[int]) -> int:\n    return sum(numbers)\n```\nHope it helps.",
        "```python\n    return sum(numbers)\n```",
        "def total(numbers):\n    return plus(numbers)\n\ndef plus(n):\n    return sum(n)\n",
    ],
)
def test_what_is_run_is_the_function_as_it_was_written(text: str) -> None:
    made = program(ITEM, text)
    assert made.startswith("from typing import List\n")
    assert made.endswith(f"{TEST}\ncheck(total)\n")
    exec(compile(made, "program", "exec"), {})


@confined
@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("raise SystemExit(0)", ""),
        ("import os; os._exit(0)", ""),
        ("import sys; sys.exit(77)", ""),
        ("x = [0] * 10**10", "MemoryError"),
        ("import socket; socket.socket()", "Operation not permitted"),
        ("import os; os.fork()", "Operation not permitted"),
        ("import os; os.kill(os.getppid(), 9)", "Operation not permitted"),
        ("import os; os.execv('/bin/true', ['true'])", "denied|permitted"),
        ("import threading; threading.Thread(target=print).start()", "can't start new thread"),
        ("open('/etc/passwd').read()", "Permission denied"),
        ("import os; os.listdir('/tmp')", "Permission denied"),
        ("open('/proc/self/environ').read()", "Permission denied"),
        ("open('/tmp/elsewhere', 'w')", "Permission denied"),
        ("open('large', 'w').write('a' * 10**7)", "File too large"),
        (FILLING, "No space left"),
        ("import resource; resource.setrlimit(resource.RLIMIT_CPU, (99, 99))", "not allowed"),
    ],
)  # fmt: skip
def test_what_a_program_cannot_do(text: str, error: str) -> None:
    found = sandbox.run(text, 5, 256 * MIB)
    assert found.end == "failed"
    assert any(part in found.error for part in error.split("|"))


@confined
@pytest.mark.parametrize("text", [QUEUED, OWNED], ids=["rt_sigqueueinfo", "F_SETOWN"])
def test_no_way_to_signal_reaches_another_process(text: str) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as victim:
        found = sandbox.run(text.replace("VICTIM", str(victim.pid)), 5, 256 * MIB)
        victim.communicate(b"\n")
    assert (found.end, victim.returncode) == ("failed", 0)


@confined
def test_one_that_sleeps_is_ended_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "START_S", 1.0)
    memory_bytes = 256 * MIB + os.getpid() % 4096  # tells its processes from all others
    assert sandbox.run("import time\nwhile True: time.sleep(9)", 0.1, memory_bytes).end == "timed_out"
    assert not [one for one in psutil.process_iter(["cmdline"]) if str(memory_bytes) in (one.info["cmdline"] or ())]


@confined
def test_what_it_can(tmp_path: Path) -> None:
    text = "import math, re, json, collections\nopen('own', 'w').write('a')\nassert open('own').read() == 'a'\nprint('well')"
    assert sandbox.run(text, 5, 256 * MIB) == sandbox.Outcome("passed")
    assert sandbox.run("while True: pass", 1, 256 * MIB).end == "timed_out"
    secret = "import os; assert 'SERINUS_HOME' not in os.environ"
    assert "SERINUS_HOME" in os.environ
    assert sandbox.run(secret, 5, 256 * MIB).end == "passed"


def test_a_machine_that_cannot_confine_runs_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "confined.py"
    script.write_text("import os, sys; sys.stderr.write('no Landlock: Function not implemented\\n'); os._exit(77)")
    monkeypatch.setattr(sandbox, "SCRIPT", script)
    config = EvaluateConfig(
        tasks=(task_of(tmp_path, "code", [{"prompt": HEAD, "test": TEST, "entry_point": "total"}]),)
    )
    with pytest.raises(ResourceError, match="cannot confine what a model wrote \\(no Landlock"):
        check(config)


@confined
def test_pass_at_1(tmp_path: Path) -> None:
    lines = [{"task_id": f"T/{n}", "prompt": HEAD, "test": TEST, "entry_point": "total"} for n in range(3)]
    of = task_of(tmp_path, "code", lines, timeout_s=1)
    says = {"T/0": "    return sum(numbers)", "T/1": "    return 4", "T/2": "    while True: pass"}
    items = build_items(of, [], 0)
    rows = with_tests(EvaluateConfig(tasks=(of,)), items, answer(FakeEngine(lambda item: [says[item.id]]), items))
    assert {row["id"]: row["correct"] for row in rows} == {"T/0": True, "T/1": False, "T/2": False}
    found = {score.metric: score.value for score in scores_of("t", "code", rows)}
    assert found == {"pass_at_1": pytest.approx(1 / 3), "timed_out_rate": pytest.approx(1 / 3)}
    chat = of.replace(chat=True)
    assert "```python\nfrom typing" in build_items(chat, [], 0)[0].prompt


@confined
def test_humaneval_s_own_solutions_pass(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    with gzip.open(shared_data("humaneval") / "data" / "HumanEval.jsonl.gz", "rt") as file:
        problems = [json.loads(line) for line in file][: None if os.environ.get("SERINUS_LONG") else 8]
    of = task_of(tmp_path, "code", problems, num_items=len(problems))
    items, solutions = build_items(of, [], 0), {one["task_id"]: one["canonical_solution"] for one in problems}
    rows = with_tests(EvaluateConfig(tasks=(of,)), items, answer(FakeEngine(lambda item: [solutions[item.id]]), items))
    assert [row["id"] for row in rows if not row["correct"]] == []


@confined
def test_the_functions_that_ship_can_be_written() -> None:
    path = Path(__file__).parents[4] / "recipes" / "quickstart" / "functions.jsonl"
    solutions = {line["id"]: line["canonical_solution"] for line in map(json.loads, path.read_text().splitlines())}
    items = build_items(task("code", path=str(path)), [], 0)
    programs = [program(item, solutions[item.id]) for item in items if isinstance(item, CodeItem)]
    assert [sandbox.run(one, 5, 256 * MIB).end for one in programs] == ["passed"] * len(solutions)
