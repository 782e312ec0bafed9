"""Jobs on the cluster of `serinus up`: submitted with a folder, followed, stopped, submitted again."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.local_cluster import Bench

pytestmark = pytest.mark.integration

PROGRAM = """
import os, sys, time
from cluster.pools import on_pool
from cluster.session import joined
import ray
print({"secrets.txt", "notes.txt"} & set(os.listdir(".")), os.environ["COLOUR"], flush=True)
with joined() as how:
    ask = ray.remote(num_cpus=1)(ray.util.get_node_ip_address).options(label_selector=on_pool("data"))
    print(how, ray.util.get_node_ip_address(), ray.get(ask.remote()), flush=True)
time.sleep(float(sys.argv[1]))
sys.exit(int(sys.argv[2]))
"""

JOBS = """
from pathlib import Path
from cluster import jobs

def submit(*arguments):
    return jobs.submit(["python", "program.py", *arguments], working_dir=Path(FOLDER), env={"COLOUR": "dark blue"})

def follow(job):
    print("exit", jobs.follow(job, out=lambda text: print(text, end="")))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "secrets.txt").write_text("x")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".gitignore").write_text("secrets.txt\n")
    (tmp_path / ".serinusignore").write_text("notes.txt\n")
    return tmp_path


def test_a_job_is_followed_to_its_exit_code_and_submitted_again(up: Bench, folder: Path) -> None:
    again = (
        "job = submit('0', '7')\nfollow(job)\n"
        "import shutil; shutil.rmtree(FOLDER)\nnew = jobs.retry(job)\nfollow(new)\n"
        "print([(one.status, one.id == new) for one in jobs.jobs() if one.id in (job, new)])"
    )
    said = up.run(f"FOLDER = {str(folder)!r}\n{JOBS}\n{again}")
    first, _, second = said.partition("exit 7\n")
    assert "set() dark blue" in first, "what .gitignore and .serinusignore name is not shipped; the environment is"
    assert "127.0.0.2 127.0.0.3" in first, "the driver is on the head, its task on the pool"
    assert "set() dark blue" in second, "the folder is gone, its package was kept"
    assert second.endswith("exit 7\n[('FAILED', True), ('FAILED', False)]\n")


def test_a_job_can_be_stopped(up: Bench, folder: Path) -> None:
    code = (
        f"FOLDER = {str(folder)!r}\n{JOBS}\njob = submit('300', '0')\n"
        "def stop_once_it_works(text):\n    print(text, end='')\n    if '127.0.0.3' in text: print(jobs.stop(job))\n"
        "print('exit', jobs.follow(job, out=stop_once_it_works))"
    )
    said = up.run(code)
    assert "True\n" in said
    assert said.endswith("exit 130\n")


MANY = """
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from cluster import jobs

def submit(number):
    job = jobs.submit(["python", "who.py", str(number)], working_dir=Path(FOLDER) / f"f{number % 5}")
    return number, job, time.monotonic()

began = time.monotonic()
with ThreadPoolExecutor(NUM) as pool:
    made = list(pool.map(submit, range(NUM)))
taken = max(at for _, _, at in made) - began
codes = [jobs.follow(job, out=lambda text: None) for _, job, _ in made]
print("took", round(taken), "s to take,", round(time.monotonic() - began), "s to end")
listed = {job.id: job.status for job in jobs.jobs()}
for number, job, _ in made:
    said = [line for line in jobs.log(job).splitlines() if line.startswith("i am")]
    assert said == [f"i am {number} of f{number % 5}"], (number, job, said)
print("ids", len({job for _, job, _ in made}), "exits", set(codes), "listed", {listed[job] for _, job, _ in made})
"""


@pytest.mark.long
def test_of_fifty_submissions_at_once_none_is_lost_or_taken_for_another(up: Bench, tmp_path: Path) -> None:
    """From five folders, so that packages are made and shipped at once, too."""
    for number in range(5):
        (folder := tmp_path / f"f{number}").mkdir()
        (folder / "who.py").write_text(f"import sys\nprint('i am', sys.argv[1], 'of f{number}')\n")
    said = up.run(f"FOLDER, NUM = {str(tmp_path)!r}, 50\n{MANY}", timeout=1_500)
    print(said)
    assert said.endswith("ids 50 exits {0} listed {'SUCCEEDED'}\n")


def test_what_cannot_be_done_is_told(up: Bench, folder: Path) -> None:
    said = up.fails(f"FOLDER = {str(folder)!r}\n{JOBS}\nfollow('nobody')")
    assert "ClusterError: job nobody: no such job on this cluster" in said
    said = up.fails(f"FOLDER = {str(folder)!r}\n{JOBS}\nsubmit('0', '0')", RAY_AUTH_TOKEN="0" * 64)
    assert "refuses our token" in said
    said = up.fails(f"FOLDER = {str(folder / 'absent')!r}\n{JOBS}\nsubmit('0', '0')")
    assert "no such folder" in said


def test_without_a_cluster_the_remedy_is_named(bench: Bench, folder: Path, tmp_path: Path) -> None:
    code = f"FOLDER = {str(folder)!r}\n{JOBS}\nsubmit('0', '0')"
    assert "there is no cluster to submit to" in bench.fails(code, SERINUS_HOME=str(tmp_path / "home"))
    assert "does not answer" in bench.fails(code, RAY_API_SERVER_ADDRESS="http://127.0.0.9:6")
