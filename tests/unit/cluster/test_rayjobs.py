"""Jobs on Kubernetes, by the official client against a server that speaks its protocol over HTTP."""

from __future__ import annotations

import importlib.util
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import serinus
from cluster import kubernetes_api, rayjobs
from cluster.errors import ClusterError, ConfigError, InputError
from cluster.kuberay.render import lifecycle_job
from cluster.rayjobs import RayJobs
from tests.unit.cluster.kuberay.conftest import shipped, workload
from tests.unit.cluster.kuberay.test_roles import ROLES, may
from tests.unit.cluster.kubernetes_server import (
    JOBS,
    MAPS,
    PODS,
    TOKEN,
    Server,
    after_it_was_done,
    dropped,
    plain,
    refused,
    serving,
)

if importlib.util.find_spec("kubernetes") is None:
    pytest.skip("the Python package kubernetes is not installed", allow_module_level=True)

RECIPE = "recipes/quickstart.yaml"


@pytest.fixture(scope="module")
def api() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def server(api: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Empty, and chosen in a kubeconfig."""
    for held in (api.objects, api.logs, api.asked, api.failures, api.events):
        held.clear()
    chosen = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "k", "cluster": {"server": api.url}}],
        "users": [{"name": "u", "user": {"token": TOKEN}}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "ns"}}],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(chosen))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setattr(kubernetes_api, "FIRST_WAIT_S", 0.02)
    monkeypatch.setattr(kubernetes_api, "PATIENCE_S", 5.0)
    monkeypatch.setattr(rayjobs, "WATCH_S", 1.0)
    return api


def submitted(server: Server) -> str:
    work = workload("dev")
    assert work is not None
    return RayJobs().submit(lifecycle_job(shipped(), "dev", work), work.recipe)


# --- submitting -------------------------------------------------------------------------------------------------------


def test_a_job_brings_its_recipe_which_then_belongs_to_it(server: Server) -> None:
    name = submitted(server)

    assert re.fullmatch(r"smollm2-lifecycle-[0-9a-f]{6}", name)
    made, recipe = server.objects[f"{JOBS}/{name}"], server.objects[f"{MAPS}/{name}-recipe"]
    volumes = made["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"]
    assert {"name": "recipe", "configMap": {"name": f"{name}-recipe"}} in volumes, "and it must be there"
    assert yaml.safe_load(recipe["data"]["recipe.yaml"])["serve"]["host"] == "0.0.0.0"
    assert recipe["metadata"]["ownerReferences"][0]["uid"] == made["metadata"]["uid"]


def test_a_creation_whose_answer_was_lost_makes_one_job(server: Server) -> None:
    server.failures = [
        (f"POST {MAPS}", after_it_was_done),
        (f"POST {JOBS}", dropped),
        (f"POST {JOBS}", after_it_was_done),
        (f"PATCH {MAPS}", refused(503, "busy")),
    ]
    name = submitted(server)
    assert [path for path in server.objects if path.startswith(JOBS)] == [f"{JOBS}/{name}"]
    assert server.objects[f"{MAPS}/{name}-recipe"]["metadata"]["ownerReferences"]
    assert not server.failures


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (refused(403, 'rayjobs.ray.io is forbidden: User "eve" cannot create'), 'User "eve" cannot create'),
        (refused(403, "no"), "serinus-operator"),
        (plain(404, "404 page not found"), "KubeRay is not installed"),
        (refused(404, 'namespaces "ns" not found'), 'namespaces "ns" not found'),
        (refused(422, "spec.entrypoint: Required value"), "is refused (spec.entrypoint"),
        (refused(401, "Unauthorized"), "refuses our credentials"),
    ],
    ids=["forbidden", "role", "no-kuberay", "no-namespace", "invalid", "unauthorized"],
)
def test_what_a_person_must_mend_is_said_once_and_leaves_nothing(failure: object, says: str, server: Server) -> None:
    server.failures = [(f"POST {JOBS}", failure)]  # type: ignore[list-item]
    with pytest.raises(ClusterError) as told:
        submitted(server)
    assert says in str(told.value)
    assert server.objects == {}, "the recipe is taken back"
    assert sum(what == f"POST {JOBS}" for what in server.asked) == 1


def test_a_server_that_stays_away_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda wait_s: now.append(now.pop() + wait_s))
    monkeypatch.setattr(kubernetes_api, "time", clock)
    server.failures = [(f"GET {JOBS}", dropped)] * 50
    with pytest.raises(ClusterError, match="does not answer"):
        RayJobs().jobs()
    assert 5 <= len(server.asked) < 50
    assert kubernetes_api.QUICK_S < now[0] < 2 * kubernetes_api.QUICK_S


NUMBERS = (
    "{current-context: x, contexts: [{name: x, context: {cluster: c, user: u}}], "
    "clusters: [{name: c, cluster: {server: 5}}], users: [{name: u, user: {token: 5}}]}"
)


@pytest.mark.parametrize(
    "content",
    ["current-context: nowhere", "", "[]", "a: {", NUMBERS, None],
    ids=["context", "empty", "list", "syntax", "numbers", "none"],
)
def test_no_cluster_chosen_is_one_message(content: str | None, server: Server, tmp_path: Path) -> None:
    if content is None:
        (tmp_path / "kubeconfig").unlink()
    else:
        (tmp_path / "kubeconfig").write_text(content)
    with pytest.raises(ClusterError, match="no cluster is chosen"):
        RayJobs()


def test_without_the_client_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(ClusterError, match=r"pip install 'serinus\[k8s\]'"):
        RayJobs()


# --- following --------------------------------------------------------------------------------------------------------


def later(*acts: object) -> None:
    def act() -> None:
        for one in acts:
            time.sleep(0.15)
            one()  # type: ignore[operator]

    threading.Thread(target=act, daemon=True).start()


def test_a_followed_job_shows_each_line_once_and_ends_with_its_code(server: Server) -> None:
    server.job("j", "Initializing", "", message="waits for pods")
    server.failures = [
        (f"GET {JOBS} watch", dropped),
        (
            f"GET {JOBS} watch",
            plain(200, '{"type": "ERROR", "object": {"code": 410, "reason": "Gone", "message": "old"}}\n'),
        ),
        (f"GET {PODS}/j-p/log", dropped),
    ]
    ended = {"reason": "AppFailed", "message": "Job entrypoint command failed with exit code 7, last available logs"}
    later(
        lambda: server.job("j"),
        lambda: server.pod("j", "one"),
        lambda: (server.pod("j", "one", "two", "two"), server.job("j")),
        lambda: (server.pod("j", "one", "two", "two", "three"), server.job("j", "Failed", "FAILED", **ended)),
    )
    shown: list[str] = []
    assert RayJobs().follow("j", out=shown.append) == 7
    assert [line for line in shown if not line.startswith("[")] == ["one\n", "two\n", "two\n", "three\n"]
    assert shown[0] == "[j: Initializing: waits for pods]\n"
    assert not server.failures


@pytest.mark.parametrize(
    ("deployment", "job", "status", "code", "says"),
    [
        ("Complete", "SUCCEEDED", {}, 0, ""),
        ("Failed", "FAILED", {"message": "Job entrypoint command failed with exit code 1, last"}, 1, ""),
        ("Failed", "RUNNING", {"reason": "DeadlineExceeded"}, 3, "DeadlineExceeded"),
        ("ValidationFailed", "", {"message": "no such field"}, 3, "no such field"),
        ("Suspended", "STOPPED", {}, 130, "STOPPED"),
    ],
)
def test_a_jobs_end_becomes_an_exit_code(
    deployment: str, job: str, status: dict[str, str], code: int, says: str, server: Server
) -> None:
    server.job("j", deployment, job, **status)
    shown: list[str] = []
    assert RayJobs().follow("j", out=shown.append) == code
    assert says in "".join(shown)


def test_a_job_that_is_deleted_meanwhile_is_told(server: Server) -> None:
    server.job("j")
    later(lambda: server.put(f"{JOBS}/j", server.objects[f"{JOBS}/j"], "DELETED"))
    with pytest.raises(ClusterError, match=r"was deleted|is not there"):
        RayJobs().follow("j", out=lambda text: None)


def test_a_log_read_again_is_shown_from_where_it_was() -> None:
    log = rayjobs._Log(None, "j")  # type: ignore[arg-type]
    stamps = ["01:00:00.9Z a", "01:00:00.95Z b", "01:00:00.95Z b", "01:00:01Z c"]
    lines = [f"2026-11-28T{line}" for line in stamps]
    assert log._unseen(lines[:2]) == ["a", "b"]
    assert log._unseen(lines) == ["b", "c"]
    assert log._unseen(lines[1:]) == []


def test_lines_that_are_not_in_the_order_of_their_moments_are_shown() -> None:
    log = rayjobs._Log(None, "j")  # type: ignore[arg-type]
    lines = ["unable to retrieve container logs", "2026-11-28T01:00:02Z out", "2026-11-28T01:00:01Z error"]
    assert log._unseen(lines, 0) == ["to retrieve container logs", "out", "error"]
    assert log._unseen(lines[1:2], 5) == []
    assert log._unseen([*lines[1:], "2026-11-28T01:00:03Z end"], 10) == ["end"]  # a window may begin a little earlier
    log._unseen([], 10 + 2 * rayjobs.CLOCKS_S + 1)
    assert log._shown == {}  # nothing is held for ever


# --- listing, stopping, once more -------------------------------------------------------------------------------------


def test_only_jobs_of_serinus_are_listed(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    name = submitted(server)
    server.job(name, startTime="2026-11-28T08:00:00Z")
    server.job("theirs")
    (found,) = RayJobs().jobs()
    assert (found.id, found.status) == (name, "RUNNING")
    assert found.started_at is not None
    serinus.app(["jobs", "list", "--k8s"], standalone_mode=False)
    assert name in capsys.readouterr().out


def test_a_stopped_job_is_suspended_and_runs_again_with_its_recipe(server: Server) -> None:
    name = submitted(server)
    server.job(name)
    where = RayJobs()
    with pytest.raises(InputError, match="has not ended"):
        where.retry(name)
    assert where.stop(name)
    assert server.objects[f"{JOBS}/{name}"]["spec"]["suspend"] is True
    server.job(name, "Suspended", "STOPPED")
    assert not where.stop(name)

    again = where.retry(name)
    assert again != name
    assert again.rpartition("-")[0] == name.rpartition("-")[0]
    spec = server.objects[f"{JOBS}/{again}"]["spec"]
    assert "suspend" not in spec
    assert f"{again}-recipe" in str(spec)
    recipes = [server.objects[f"{MAPS}/{one}-recipe"]["data"] for one in (name, again)]
    assert recipes[0] == recipes[1]


def test_a_command_on_the_cluster_that_serves_is_deleted_when_stopped(server: Server) -> None:
    server.job("c")
    server.objects[f"{JOBS}/c"]["spec"] |= {"clusterSelector": {"ray.io/cluster": "serinus"}}
    assert RayJobs().stop("c")
    assert f"{JOBS}/c" not in server.objects


@pytest.mark.parametrize("name", ["../x", "a/b", "", "A", "-a", "a" * 300])
def test_a_name_is_no_path(name: str, server: Server) -> None:
    with pytest.raises(InputError, match="is no job's name"):
        RayJobs().log(name)
    assert server.asked == []


def test_the_command_line_submits_follows_and_ends_with_the_jobs_code(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    def ends() -> None:
        while not (names := [path.rpartition("/")[2] for path in list(server.objects) if path.startswith(JOBS)]):
            time.sleep(0.02)
        (name,) = names
        server.pod(name, "hello")
        server.job(name, "Complete", "SUCCEEDED")

    later(ends)
    code = serinus.app(["submit", RECIPE, "--k8s", "--overlay", "dev"], standalone_mode=False)
    said = capsys.readouterr().out
    assert code == 0
    assert "submitted " in said
    assert "hello\n" in said


def test_options_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="--working-dir"):
        serinus.app(["submit", RECIPE, "--k8s", "--working-dir", "."], standalone_mode=False)
    with pytest.raises(ConfigError, match="add --k8s"):
        serinus.app(["jobs", "list", "--namespace", "n"], standalone_mode=False)


VERBS = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}


def rights(asked: list[str]) -> set[tuple[str, str, str]]:
    """(verb, API group, resource) of requests, as the API server's RBAC names them."""
    found = set()
    for what in asked:
        method, path, *watch = what.split(" ")
        group = "ray.io" if path.startswith("/apis/ray.io") else ""
        _, _, place = path.partition("/namespaces/ns/")
        resource, *name = place.split("/")
        read = "watch" if watch else "get" if name else "list"
        found.add((VERBS.get(method, read), group, "/".join([resource, *name[1:]])))
    return found


def test_a_viewer_can_look_and_an_operator_can_do_all_that_the_commands_do(server: Server) -> None:
    name = submitted(server)
    server.pod(name, "one")
    where = RayJobs()
    where.stop(name)
    server.job(name, "Suspended", "STOPPED")
    where.retry(name)
    assert _refused("operator", server.asked) == set()

    server.asked.clear()
    where.jobs()
    where.log(name)
    server.job(name)
    later(lambda: server.job(name, "Complete", "SUCCEEDED"))
    where.follow(name, out=lambda text: None)
    assert _refused("viewer", server.asked) == set()
    assert _refused("viewer", [f"POST {JOBS}"]) == {("create", "ray.io", "rayjobs")}


def _refused(role: str, asked: list[str]) -> set[tuple[str, str, str]]:
    return {(v, g, r) for v, g, r in rights(asked) if not may(ROLES[f"serinus-{role}"], v, g, r)}


def test_a_job_acts_in_the_name_of_who_submitted_it(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERINUS_USER", "ada: [x]\nlovelace")
    name = submitted(server)
    environment = yaml.safe_load(server.objects[f"{JOBS}/{name}"]["spec"]["runtimeEnvYAML"])
    assert environment == {"env_vars": {"SERINUS_USER": "ada: [x]\nlovelace"}}
