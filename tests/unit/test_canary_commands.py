"""`serinus canary plan` and `replay` as a user types them, without a cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from cluster.errors import ConfigError, UserError
from serinus import app
from services.rollout import scribe
from tests.unit.services.rollout.test_waiting import ask, made
from tests.unit.services.rollout.world import World
from tests.unit.test_check import GOOD, QUICKSTART


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["canary", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_a_plan_is_a_table_of_steps() -> None:
    code, printed = run("plan", str(QUICKSTART), "--rate", "600/min")
    assert code == 0
    assert [line.split()[:3] for line in printed.splitlines() if " % " in line] == [
        ["1", "%", "0.1"],
        ["10", "%", "1"],
        ["50", "%", "5"],
    ]
    assert "docs/rollouts.md" in printed


@pytest.mark.parametrize("percent", [0, 5, 100])
def test_a_rollout_that_begins_with_copies_needs_some_and_something_to_compare_them_with(
    tmp_path: Path, percent: float
) -> None:
    written = yaml.safe_load(GOOD)
    written.setdefault("serve", {})["shadow"] = {"percent": percent}
    written["rollout"] = {"steps": [{"weight_percent": 0}, {"weight_percent": 10}]}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(written))
    if percent != 5:
        with pytest.raises(ConfigError, match=f"serve.shadow.percent is {percent}"):
            run("plan", str(recipe), "--rate", "50/s")
        return
    code, printed = run("plan", str(recipe), "--rate", "50/s")
    assert code == 0
    row = next(line.split() for line in printed.splitlines() if "copies" in line)
    assert row[:3] == ["copies", "2.5", "errors"]


@pytest.mark.parametrize("rate", ["fast", "0/s", "5/day", "-1", "nan/s"])
def test_a_rate_that_is_none_is_refused(rate: str) -> None:
    with pytest.raises(ConfigError, match="is no rate of requests"):
        run("plan", str(QUICKSTART), f"--rate={rate}")


def test_a_replay_ends_with_1_when_a_decision_comes_out_differently(tmp_path: Path) -> None:
    world = World(tmp_path / "store")
    rollout = world.start()
    world.canary_harmful = True
    world.run(20)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(GOOD.replace("name: smollm2", "name: m", 1))
    code, printed = run("replay", "--recipe", str(recipe))
    assert (code, "every decision comes out the same" in printed) == (0, True)
    for key in world.storage.list(f"rollouts/m/{rollout}"):
        if key.endswith(".parquet"):
            table = pq.read_table(str(world.root / key))
            place = table.schema.get_field_index("outcome")
            pq.write_table(table.set_column(place, "outcome", pa.array(["ok"] * len(table))), str(world.root / key))
    code, printed = run("replay", rollout, "--recipe", str(recipe))
    assert (code, "OTHER" in printed) == (1, True)


def test_the_history_tells_who_did_what_and_when_an_entry_is_missing(tmp_path: Path) -> None:
    world = World(tmp_path / "store")
    world.start()
    world.run(2)
    scribe.record(world.storage, "m")
    world.loop.abort("bob")
    world.run(10)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(GOOD.replace("name: smollm2", "name: m", 1))
    code, printed = run("history", "--recipe", str(recipe), "--last", "2")
    assert code == 0
    assert [line.split()[0] for line in printed.splitlines()] == ["3", "-"]
    assert "aborted      bob          taken out by bob" in printed
    code, printed = run("history", "--recipe", str(recipe), "--json")
    assert [json.loads(line)["kind"] for line in printed.splitlines() if json.loads(line)["who"] != "serinus"] == [
        "started",
        "aborted",
    ]
    scribe.record(world.storage, "m")
    (world.root / "audit/m/00000003.json").unlink()
    code, printed = run("history", "--recipe", str(recipe))
    assert (code, "the record is not whole: missing: 3" in printed) == (1, True)


def test_changes_of_keys_are_on_record_by_name_and_never_a_key(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(GOOD.replace("serve:\n", "serve:\n  admission: {keys: keys.yaml}\n", 1))
    keys = ["keys", "add", "alice", "--recipe", str(recipe)]
    token = CliRunner().invoke(app, keys).stdout.strip()
    assert token.startswith("sk-serinus-")
    CliRunner().invoke(app, ["keys", "apply", "--recipe", str(recipe)])
    _, printed = run("history", "--recipe", str(recipe), "--json")
    (line,) = printed.splitlines()
    assert (json.loads(line)["kind"], json.loads(line)["message"]) == ("keys", "added: alice")
    assert token not in printed


def test_a_start_during_a_rollout_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    world = World(tmp_path / "store")
    world.start()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(GOOD.replace("name: smollm2", "name: m", 1))
    with pytest.raises(UserError, match="is that of m-00000002 already"):
        run("start", "--revision", "m-00000002", "--recipe", str(recipe))


def test_who_waits_is_shown_and_withdrawn(tmp_path: Path) -> None:
    world = made(tmp_path / "store")
    world.start()
    ask(world)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(GOOD.replace("name: smollm2", "name: m", 1))
    _, printed = run("status", "--recipe", str(recipe))
    assert "waiting: m-00000003, asked for by bob" in printed
    _, printed = run("withdraw", "--recipe", str(recipe))
    assert "m-00000003 does not wait any more" in printed
    with pytest.raises(UserError, match="no candidate waits"):
        run("withdraw", "--recipe", str(recipe))


@pytest.mark.parametrize("percent", ["500", "nan"])
def test_a_weight_that_is_no_share_is_refused_before_a_cluster_is_asked_for(percent: str) -> None:
    with pytest.raises(ConfigError, match="is no share of users"):
        run("set", percent)


@pytest.mark.parametrize("content", ["{bad", "[]", "{}"])
def test_what_was_deployed_last_may_be_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setenv("SERINUS_HOME", str(tmp_path))
    (tmp_path / "deployed.json").write_text(content)
    with pytest.raises(ConfigError, match="does not say which one was deployed last"):
        run("status")
