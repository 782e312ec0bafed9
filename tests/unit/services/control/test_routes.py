"""The control API over ASGI: who may do what, what is refused and how, and whose name is on record."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path

import pytest

from cluster import registry
from services import audit
from services.control.roles import ROLES
from services.control.routes import PREFIX, ROUTES, Route
from services.rollout.waiting import read_waiting
from services.serving.keys import add_key, publish_keys, read_keys
from services.serving.openai_errors import ErrorAnswer
from tests.unit.services.control.scene import Scene, two_at_once
from tests.unit.services.rollout.world import CANDIDATE, STABLE

BODIES = {
    "/rollouts": {},
    "/rollouts/{rollout_id}/weight": {"weight_percent": 5},
    "/traffic/revert": {"stable": STABLE},
}


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def call(scene: Scene, route: Route, role: str) -> int:
    path = route.path.format(rollout_id="current", kind="users", key_name="nobody")
    body = BODIES.get(route.path) if route.method == "POST" else None
    return scene.ask(route.method, path, role, **({"json": body} if body is not None else {})).status_code


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_each_endpoint_is_for_its_role_and_those_above(scene: Scene, route: Route) -> None:
    for role in ROLES:
        let_in = ROLES.index(role) >= ROLES.index(route.role)
        assert (call(scene, route, role) != 403) == let_in
    for nobody in ("sk-wrong", ""):
        assert call(scene, route, nobody) == 401


def test_what_looks_is_for_viewers_what_acts_for_operators_and_keys_for_admins() -> None:
    for route in ROUTES:
        expected = "admin" if route.path.startswith("/keys") else "viewer" if route.method == "GET" else "operator"
        assert route.role == expected


def test_there_is_no_endpoint_beside_the_table(scene: Scene) -> None:
    served = {(method, route.path) for route in scene.app.routes for method in route.methods}  # type: ignore[attr-defined]
    assert served == {(route.method, PREFIX + route.path) for route in ROUTES}
    for path in ("/", "/docs", "/openapi.json", "/control/v1", "/v1/models", "/-/routes", "/control/v2/traffic"):
        assert scene.client.get(path).status_code == 401
        assert scene.client.get(path, headers={"authorization": f"Bearer {scene.tokens['admin']}"}).status_code == 404


def test_a_viewer_looks_and_an_operator_acts_with_the_keys_name_on_record(scene: Scene) -> None:
    rollout = scene.world.start()
    scene.world.run(2)
    seen = scene.ask("GET", "/rollouts/current", "viewer").json()
    assert (seen["id"], seen["candidate"], seen["phase"]) == (rollout, CANDIDATE, "progressing")
    assert scene.ask("GET", f"/rollouts/{rollout}", "viewer").json() == seen
    assert scene.ask("GET", "/rollouts", "viewer").json() == {"rollouts": [rollout]}
    assert scene.ask("GET", "/traffic", "viewer").json()["traffic"]["weight_percent"] == 10
    assert [r["revision"] for r in scene.ask("GET", "/revisions", "viewer").json()["revisions"]] == [STABLE, CANDIDATE]
    assert scene.ask("POST", f"/rollouts/{rollout}/rollback", "viewer").status_code == 403
    held = scene.ask("POST", f"/rollouts/{rollout}/weight", json={"weight_percent": 33})
    assert (held.status_code, held.json()["weight_percent"], held.json()["decision"]["who"]) == (
        200,
        33,
        "key:operator",
    )
    out = scene.ask("POST", f"/rollouts/{rollout}/rollback")
    assert (out.status_code, out.json()["phase"]) == (200, "rolling_back")
    scene.world.run(10)
    assert (scene.world.traffic.stable, scene.world.traffic.canary) == (STABLE, None)
    told = scene.record()
    assert told[0] == ("refused", "key:viewer")
    assert [line for line in told if line[1] == "key:operator"] == [
        ("held", "key:operator"),
        ("aborted", "key:operator"),
    ]


def test_of_two_who_promote_at_once_one_wins_and_the_other_is_told(scene: Scene) -> None:
    rollout = scene.world.start()
    scene.world.run(2)
    assert two_at_once(lambda: scene.ask("POST", f"/rollouts/{rollout}/promote").status_code) == [200, 409]
    scene.world.run(10)
    assert scene.world.status.phase == "promoted"
    assert [d.action for d in scene.world.status.decisions].count("promote") == 1


def test_an_order_that_comes_late_meets_neither_the_next_rollout_nor_stable(scene: Scene) -> None:
    first = scene.world.start()
    scene.ask("POST", f"/rollouts/{first}/promote")
    scene.world.run(10)
    assert scene.world.traffic.stable == CANDIDATE
    assert scene.ask("POST", f"/rollouts/{first}/rollback").status_code == 409
    assert scene.ask("POST", "/rollouts/current/rollback").status_code == 409
    assert scene.world.traffic.stable == CANDIDATE
    registry.move_aliases(scene.storage, "m", {"candidate": STABLE})
    scene.world.loop.start(scene.world.status.config, STABLE, 1, "ann", "items")
    scene.world.run(1)
    late = scene.ask("POST", f"/rollouts/{first}/rollback")
    assert late.status_code == 409
    assert "is not the current one" in late.json()["error"]["message"]
    assert scene.world.status.phase == "progressing"


def test_going_back_twice_goes_back_once(scene: Scene) -> None:
    scene.ask("POST", f"/rollouts/{scene.world.start()}/promote")
    scene.world.run(10)
    answers = [scene.ask("POST", "/traffic/revert", json={"stable": CANDIDATE}).status_code for _ in range(2)]
    assert answers == [200, 409]
    assert scene.world.traffic.stable == STABLE
    assert ("reverted", "key:operator") in scene.record()


def test_a_candidate_is_put_in_its_place_loaded_and_begun(scene: Scene) -> None:
    scene.world.run(3)
    scene.world.applications.loaded.remove(CANDIDATE)
    answer = scene.ask("POST", "/rollouts", json={})
    assert (answer.status_code, answer.json()["revision"]) == (202, CANDIDATE)
    assert scene.ask("GET", "/waiting", "viewer").json()["waiting"]["who"] == "key:operator"
    assert scene.ask("POST", "/rollouts", json={"revision": CANDIDATE}).status_code == 409
    scene.world.run(1)
    assert (scene.world.status.candidate, scene.world.applications.num_loads) == (CANDIDATE, 1)
    assert scene.world.status.decisions[0].who == "key:operator"
    assert scene.ask("GET", "/waiting", "viewer").json() == {"waiting": None}
    assert scene.ask("POST", "/rollouts", json={}).status_code == 409, "one is under way"


def test_who_waits_can_be_withdrawn(scene: Scene) -> None:
    scene.ask("POST", "/rollouts", json={})
    assert scene.ask("DELETE", "/waiting").status_code == 200
    assert read_waiting(scene.storage, "m")[0] is None
    assert scene.ask("DELETE", "/waiting").status_code == 409
    assert scene.record() == [("waiting", "key:operator"), ("waiting", "key:operator")]


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/rollouts", {"revision": "m-99999999"}, 404, "is not in the registry"),
        ("/rollouts", {"revision": STABLE}, 409, "is stable already"),
        ("/rollouts", {"revision": "../../aliases"}, 400, "revision"),
        ("/rollouts", {"revision": "m\n12:00:00 I rollout: all is well"}, 400, "revision"),
        ("/rollouts", {"config": {}}, 400, "config"),
        ("/rollouts/current/weight", {"weight_percent": 101}, 400, "weight_percent"),
        ("/rollouts/current/weight", {"weight_percent": 1, "who": "analysis"}, 400, "who"),
        ("/rollouts/current/weight", {}, 400, "weight_percent"),
        ("/rollouts/current/weight", {"weight_percent": True}, 400, "weight_percent"),
        ("/traffic/revert", {"stable": CANDIDATE}, 409, "is not stable"),
    ],
)
def test_an_order_that_cannot_be_is_refused_with_the_field(
    scene: Scene, path: str, body: dict[str, object], status: int, says: str
) -> None:
    scene.world.start()
    scene.world.run(1)
    before = scene.world.status
    if path == "/traffic/revert":
        scene.ask("POST", "/rollouts/current/rollback")
        scene.world.run(10)
        before = scene.world.status
    answer = scene.ask("POST", path, json=body)
    assert answer.status_code == status
    assert says in ErrorAnswer.model_validate(answer.json()).error.message
    assert scene.world.status == before


@pytest.mark.parametrize(
    "rollout",
    ["..", "%2e%2e", "..%2f..%2fregistry%2fm", "a%00b", "x" * 5000, "20260101-000000-000000", "current%0a", "..%5c.."],
)
def test_an_id_that_is_a_path_or_names_none_is_not_found(scene: Scene, rollout: str) -> None:
    scene.world.start()
    for method, end in (("GET", ""), ("POST", "/rollback"), ("POST", "/promote")):
        assert scene.ask(method, f"/rollouts/{rollout}{end}").status_code in (400, 404, 405)
    assert scene.world.status.phase == "progressing"


def test_a_body_too_large_or_no_json_is_refused(scene: Scene) -> None:
    large = scene.ask("POST", "/rollouts", content=b" " * 20_000)
    assert (large.status_code, large.json()["error"]["code"]) == (413, "body_too_large")
    for content in (b"{", b"[]", b"\xff", b'{"revision": "\\ud800"}', b'{"revision": ' + b"[" * 5000, b"null"):
        answer = scene.ask("POST", "/rollouts", content=content)
        assert answer.status_code == 400, content
        ErrorAnswer.model_validate(answer.json())


def test_attempts_beyond_a_role_are_on_record_once_an_hour_and_wrong_keys_never(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "serinus.control"):
        for _ in range(30):
            assert scene.ask("DELETE", "/waiting", "viewer").status_code == 403
            assert scene.ask("DELETE", "/waiting", "sk-serinus-wrongwrongwrongwrong").status_code == 401
    refused = [stored.entry.line for stored in audit.entries(scene.storage, "m")]
    assert [(line.kind, line.who, line.message) for line in refused] == [
        ("refused", "key:viewer", "DELETE /control/v1/waiting is not for the role viewer")
    ]
    assert len(caplog.records) == 2
    assert "wrongwrong" not in caplog.text
    scene.world.run(3601)
    scene.ask("DELETE", "/waiting", "viewer")
    scene.ask("DELETE", "/waiting", "sk-wrong")
    assert len(list(audit.entries(scene.storage, "m"))) == 2
    assert "and 29 more" in caplog.text


def test_a_clock_set_back_and_a_record_that_cannot_be_written_keep_no_attempt_quiet(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as away:
        away.setattr(scene.storage, "write", unwritable)
        assert scene.ask("DELETE", "/waiting", "viewer").status_code == 403
    for num_recorded in (1, 2):
        scene.ask("DELETE", "/waiting", "viewer")
        scene.ask("DELETE", "/waiting", "sk-wrong")
        assert len(list(audit.entries(scene.storage, "m"))) == num_recorded
        scene.world.now -= timedelta(days=1)
    assert caplog.text.count("Incorrect API key") == 2


def unwritable(*given: object, **named: object) -> None:
    raise OSError("no space left")


def test_an_admin_sees_no_hash_and_revokes_for_good(scene: Scene) -> None:
    users = scene.file.with_name("keys.yaml")
    add_key(users, "ann", requests_per_minute=5)
    publish_keys(scene.storage, "m", users)
    listed = scene.ask("GET", "/keys", "admin")
    assert listed.json() == {
        "users": [{"name": "ann", "requests_per_minute": 5}],
        "control": [{"name": role, "control": role} for role in ROLES],
    }
    assert scene.ask("DELETE", "/keys/control/operator", "admin").status_code == 200
    assert scene.ask("DELETE", "/keys/users/ann", "admin").status_code == 200
    assert scene.ask("DELETE", "/keys/users/ann", "admin").status_code == 404
    assert scene.ask("DELETE", "/keys/others/ann", "admin").status_code == 400
    scene.keys.poll()
    assert scene.ask("GET", "/traffic", "operator").status_code == 401
    publish_keys(scene.storage, "m", scene.file, "control")
    assert [key.name for key in read_keys(scene.storage, "m", "control")[0].keys] == ["viewer", "admin"]
    assert scene.record() == [("keys", "key:admin"), ("keys", "key:admin")]


def test_a_defect_tells_the_log_and_not_the_client(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*given: object) -> None:
        raise KeyError("a secret")

    monkeypatch.setattr("services.control.desk.rollout_ids", broken)
    answer = scene.ask("GET", "/rollouts", "viewer")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert "secret" not in answer.text
    assert "a secret" in caplog.text


def test_a_storage_that_cannot_be_read_is_told_as_a_conflict_with_its_remedy(scene: Scene) -> None:
    rollout = scene.world.start()
    scene.storage.write(f"rollouts/m/{rollout}/status.json", b"{")
    answer = scene.ask("GET", "/rollouts/current", "viewer")
    assert answer.status_code == 409
    assert "restore the file" in answer.json()["error"]["message"]


def test_keys_with_a_limit_keep_it(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    text = scene.file.read_text().replace("control: viewer", "control: viewer\n    requests_per_minute: 2")
    scene.file.write_text(text)
    publish_keys(scene.storage, "m", scene.file, "control")
    scene.keys.poll()
    assert [scene.ask("GET", "/traffic", "viewer").status_code for _ in range(3)] == [200, 200, 429]
    assert scene.ask("GET", "/traffic", "operator").status_code == 200
