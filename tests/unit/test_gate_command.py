"""`serinus gate explain` as a user types it, without a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster import artifacts
from cluster.artifacts import GateReport
from cluster.errors import ConfigError, InputError
from cluster.storage import open_storage
from pipelines.config import GateConfig
from serinus import app
from tests.unit.test_check import GOOD


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(GOOD)
    return path


def explain(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["gate", "explain", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0
    return result.output


def test_the_last_one_by_key_and_by_file(recipe: Path) -> None:
    with pytest.raises(InputError, match="no gate report yet"):
        explain("--recipe", str(recipe))
    storage = open_storage(str(recipe.parent / "store"))
    settings = GateConfig().model_dump(mode="json")
    first, last = (artifacts.save(storage, GateReport(key=digit * 16, config=settings)) for digit in "ab")

    assert explain("--recipe", str(recipe)).startswith(f"gate {last.key}: inconclusive, not to be published\n")
    assert explain("aaaa", "--recipe", str(recipe)).startswith(f"gate {first.key}")
    path = recipe.parent / "store" / first.location / "manifest.json"
    assert explain(str(path)).startswith(f"gate {first.key}")


def test_without_a_recipe_it_says_how_to_name_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERINUS_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="--recipe"):
        explain()
