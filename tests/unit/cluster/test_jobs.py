"""Jobs: what is shipped, shown, followed through a dropped connection, and submitted again."""

from __future__ import annotations

import http.server
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from ray.job_submission import JobDetails, JobStatus, JobType

import serinus
from cluster import jobs, packages
from cluster.errors import ClusterError, InputError


def details(job: str, status: JobStatus = JobStatus.SUCCEEDED, **fields: Any) -> JobDetails:
    given = {"entrypoint": "python -m serinus run recipe.yaml", "start_time": 1_700_000_000_000, **fields}
    return JobDetails(type=JobType.SUBMISSION, submission_id=job, status=status, **given)


class Cluster:
    """Stands for Ray's client: what it knows of jobs, and what it was asked for."""

    def __init__(self, *known: JobDetails) -> None:
        self.known = {job.submission_id: job for job in known}
        self.submitted: list[dict[str, Any]] = []
        self.answers: list[Any] = []
        """For the log, one after another; an exception is raised."""

    def list_jobs(self) -> list[JobDetails]:
        driver = JobDetails(type=JobType.DRIVER, job_id="01000000", status=JobStatus.RUNNING, entrypoint="python a.py")
        return [driver, *self.known.values()]

    def get_job_info(self, job: str) -> JobDetails:
        if job not in self.known:
            raise RuntimeError("Request failed with status code 404: Job not found")
        return self.known[job]

    def get_job_logs(self, job: str) -> str:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if len(self.answers) == 1:
            self.known[job] = details(job)
        return str(answer)

    def stop_job(self, job: str) -> bool:
        return not self.get_job_info(job).status.is_terminal()

    def submit_job(self, **given: Any) -> str:
        self.submitted.append(given)
        return "raysubmit_new"


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cluster:
    made = Cluster(
        details("done", end_time=1_700_000_061_000, runtime_env={"working_dir": "gcs://_ray_pkg_a.zip", "env_vars": {"A": "1"}}),
        details("busy", JobStatus.RUNNING, start_time=1_700_000_100_000),
        details("waits", JobStatus.PENDING, start_time=None),
    )  # fmt: skip
    monkeypatch.setattr(jobs, "_client", lambda dashboard: made)
    monkeypatch.setattr(jobs, "_url", lambda dashboard: "http://nowhere")
    monkeypatch.setattr(jobs, "POLL_S", 0.0)
    monkeypatch.setenv("SERINUS_HOME", str(tmp_path / "home"))
    return made


def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["serinus", *words])
    with pytest.raises(SystemExit) as ended:
        serinus.main()
    said = capsys.readouterr()
    code = ended.value.code
    return (code if isinstance(code, int) else 0), said.out, said.err


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_jobs_are_listed_newest_first_and_drivers_are_none(cluster: Cluster) -> None:
    assert [(job.id, job.status) for job in jobs.jobs()] == [
        ("waits", "PENDING"),
        ("busy", "RUNNING"),
        ("done", "SUCCEEDED"),
    ]


def test_the_table_says_how_long_and_hides_no_control_characters(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.known = {"ev[/b]il": details("ev[/b]il", entrypoint="echo \x1b[2J[bold]x", end_time=1_700_003_725_000)}
    code, said, _ = command(capsys, monkeypatch, "jobs", "list")
    assert code == 0
    assert "ev[/b]il" in said
    assert "2023-11-14 22:13:20" in said
    assert "1:02:05" in said
    assert "echo \\x1b[2J[bold]x" in said
    assert "\x1b" not in said


def test_a_whole_log_is_printed_and_an_unknown_job_is_told(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.answers = ["one\ntwo\n"]
    assert command(capsys, monkeypatch, "jobs", "logs", "done")[:2] == (0, "one\ntwo\n")
    code, _, error = command(capsys, monkeypatch, "jobs", "stop", "nobody")
    assert code == 2
    assert "job nobody: no such job on this cluster" in error


@pytest.mark.parametrize("answer", [requests.ConnectionError("refused"), RuntimeError("status code 500: abc404")])
def test_a_cluster_that_does_not_answer_is_one_message(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, answer: Exception
) -> None:
    cluster.answers = [answer]
    code, _, error = command(capsys, monkeypatch, "jobs", "logs", "done")
    assert code == 2
    assert "job done: the cluster does not tell" in error


@pytest.mark.parametrize("name", ["../packages/gcs/x", "a/b", "..", "a?b", "a b"])
def test_an_id_that_would_become_another_path_is_refused(cluster: Cluster, name: str) -> None:
    for act in (jobs.log, jobs.stop, jobs.retry, lambda job: jobs.follow(job, out=print)):
        with pytest.raises(InputError, match="is no job's id"):
            act(name)


# --- following --------------------------------------------------------------------------------------------------------


def test_a_log_is_followed_through_dropped_connections_without_a_line_twice(cluster: Cluster) -> None:
    gone, busy = requests.ConnectionError("reset"), RuntimeError("Request failed with status code 502: bad gateway")
    cluster.answers = ["one\n", gone, busy, "one\ntw", "one\ntwo\n", gone, "", "one\ntwo\nthree\n"]
    said: list[str] = []
    assert jobs.follow("busy", out=said.append) == 0
    assert said == ["one\n", "tw", "o\n", "three\n"]


def test_a_cluster_that_stays_away_is_told(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "PATIENCE_S", 0.0)
    cluster.answers = ["one\n", *[requests.ConnectionError("refused")] * 9]
    with pytest.raises(ClusterError, match=r"lost sight of it \(refused\)"):
        jobs.follow("busy", out=lambda text: None)


# --- once more --------------------------------------------------------------------------------------------------------


def test_retry_sends_the_same_command_files_and_environment(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "a.txt").write_text("a")
    package = packages.pack(tmp_path / "project")
    environment = {"working_dir": f"gcs://{package.name}", "env_vars": {"A": "1"}}
    cluster.known["done"] = details("done", runtime_env=environment, entrypoint="python 'a b.py'")
    assert jobs.retry("done") == "raysubmit_new"
    assert cluster.submitted == [
        {"entrypoint": "python 'a b.py'", "runtime_env": {"working_dir": str(package), "env_vars": {"A": "1"}}}
    ]


def test_what_the_cluster_still_holds_is_not_sent_again(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(jobs, "has_package", lambda url, name: asked.append(name) or True)
    jobs.retry("done")
    assert asked == ["_ray_pkg_a.zip"]
    assert cluster.submitted[0]["runtime_env"]["working_dir"] == "gcs://_ray_pkg_a.zip"


def test_a_package_that_is_gone_is_told(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "has_package", lambda url, name: False)
    with pytest.raises(InputError, match="no longer on the cluster"):
        jobs.retry("done")


def test_a_job_under_way_is_not_submitted_twice(cluster: Cluster) -> None:
    with pytest.raises(InputError, match="serinus jobs stop busy"):
        jobs.retry("busy")
    assert cluster.submitted == []


# --- what is shipped --------------------------------------------------------------------------------------------------


def _shipped(folder: Path) -> set[str]:
    with zipfile.ZipFile(packages.pack(folder)) as package:
        return set(package.namelist())


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SERINUS_HOME", str(tmp_path / "home"))
    root = tmp_path / "project"
    for name in ("a.py", "notes.txt", "raw/big.bin", "raw/keep.bin", ".git/config", ".venv/x", "sub/.env", "key.pem"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / ".gitignore").write_text("key.pem\n")
    return root


def test_a_package_leaves_out_what_both_ignore_files_say(project: Path) -> None:
    everything = {"a.py", "notes.txt", "raw/big.bin", "raw/keep.bin", "sub/.env", ".gitignore"}
    assert _shipped(project) == everything
    (project / ".serinusignore").write_text("# not for the cluster\n\n.env\nraw/*\n!raw/keep.bin\n!key.pem\n")
    left = {"a.py", "notes.txt", "raw/keep.bin", ".gitignore", ".serinusignore"}
    assert _shipped(project) == left, "key.pem does not come back: .gitignore says no"


def test_a_package_is_kept_for_its_owner_only_and_the_oldest_go(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = packages.pack(project)
    assert packages.pack(project) == first, "the same content has the same name"
    assert first.parent.stat().st_mode & 0o077 == 0
    assert packages.find(f"gcs://{first.name}") == first
    assert packages.find("s3://bucket/" + first.name) is None
    monkeypatch.setattr(packages, "KEPT_BYTES", 0)
    (project / "a.py").write_text("other")
    second = packages.pack(project)
    assert list(second.parent.iterdir()) == [second]


def test_a_folder_too_large_or_with_links_out_of_it_is_refused_before_it_is_copied(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for target, says in (("..", "a folder"), ("/etc/hostname", "something outside")):
        (project / "sub" / "link").symlink_to(target)
        with pytest.raises(InputError, match=f"is a link to {says}"):
            packages.pack(project)
        (project / "sub" / "link").unlink()
    (project / ".serinusignore").write_text("link\n")
    (project / "sub" / "link").symlink_to("..")
    assert "a.py" in _shipped(project), "what is ignored may be anything"
    kept = packages.pack(project)
    monkeypatch.setattr(packages, "PACKAGE_BYTES", 10)
    with pytest.raises(InputError, match="more than the"):
        packages.pack(project)
    assert list(kept.parent.iterdir()) == [kept]


@pytest.mark.parametrize(("content", "says"), [(b"!\n", "patterns"), (b"\xff", "patterns")])
def test_an_ignore_file_that_is_none_is_refused(project: Path, content: bytes, says: str) -> None:
    (project / ".serinusignore").write_bytes(content)
    with pytest.raises(InputError, match=says):
        packages.pack(project)


def test_a_recipe_in_a_shipped_folder_keeps_its_place_and_no_storage_is_lost(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = "name: m\nstorage: {}\ndata: {{sources: [{{path: a.txt}}]}}\nmodel: {{source: base}}\n"
    text += "evaluate: {{tasks: [{{name: p, kind: perplexity}}]}}\n"
    recipe = tmp_path / "project" / "recipes" / "m.yaml"
    recipe.parent.mkdir(parents=True)
    submit = ["submit", str(recipe), "--no-follow", "--working-dir", str(tmp_path / "project")]
    recipe.write_text(text.format("../store"))
    code, _, error = command(capsys, monkeypatch, *submit)
    assert code == 2
    assert "would go with it" in error
    recipe.write_text(text.format("../../outside"))
    assert command(capsys, monkeypatch, *submit)[0] == 2, "on the head it is beside the copy"
    recipe.write_text(text.format("s3://bucket/store"))
    assert command(capsys, monkeypatch, *submit)[0] == 0
    assert cluster.submitted[0]["entrypoint"].endswith("-m serinus run recipes/m.yaml")
    code, _, error = command(capsys, monkeypatch, *submit[:-1], str(tmp_path / "home"))
    assert code == 2
    assert "is not in" in error


# --- the token --------------------------------------------------------------------------------------------------------


class _Dashboard(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        let_in = self.headers.get("Authorization") == "Bearer right"
        self.send_response(404 if let_in else 401 if "Authorization" not in self.headers else 403)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def dashboard() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Dashboard) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("token", "says"), [("", "asks for a token and there is none here"), ("wrong", "refuses our token")]
)
@pytest.mark.parametrize(
    "words", [("list",), ("logs", "a"), ("logs", "-f", "a"), ("stop", "a"), ("retry", "a")], ids=" ".join
)
def test_without_the_right_token_one_message_says_what_to_do(
    dashboard: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    token: str,
    says: str,
    words: tuple[str, ...],
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", dashboard)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "absent"))
    code, said, error = command(capsys, monkeypatch, "jobs", *words)
    assert (code, said) == (2, "")
    assert error == f"error: dashboard {dashboard}: {says}\n  -> {jobs.TOKEN_REMEDY}\n"


def test_a_package_on_the_cluster_is_asked_for_by_name(dashboard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "right")
    assert not jobs.has_package(dashboard, "_ray_pkg_a.zip")
