"""`serinus canary plan` and `replay` as a user types them, without a cluster."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cluster.errors import ConfigError
from serinus import app
from tests.unit.services.rollout.test_loop import World
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
