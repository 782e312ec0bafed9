"""`serinus publish-adapter` as a user types it, and what refuses an adapter before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster import registry
from cluster.artifacts import Revision
from cluster.errors import InputError
from cluster.storage import LocalStorage
from serinus import app
from tests.unit.pipelines.test_adapter import base, write
from tests.unit.test_check import GOOD

__all__ = ["base"]  # the fixture: a published base with one weight


def test_a_peft_folder_becomes_the_candidate(storage: LocalStorage, base: Revision, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(GOOD.replace("name: smollm2", "name: m", 1).replace("storage: store", f"storage: {storage.root}"))
    folder = write(tmp_path / "adapter")
    result = CliRunner().invoke(app, ["publish-adapter", str(folder), "--recipe", str(recipe)])
    assert result.exit_code == 0, result.output
    candidate = registry.resolve(storage, "m", "candidate")
    assert (candidate.base, candidate.revision in result.output) == (base.revision, True)


def test_an_adapter_is_a_canary_in_stables_engine_alone(storage: LocalStorage) -> None:
    for number, on in ((1, ""), (2, ""), (3, "m-1"), (4, "m-1"), (5, "m-2")):
        fields = {"base": on, "adapter": "folder" if on else "", "weights": "w"}
        made = Revision(key=f"{number:016x}", name="m", revision=f"m-{number}", **fields)
        registry.publish_revision(storage, made)
    for stable in ("m-1", "m-3"):  # itself, or an adapter in the same engine
        registry.move_alias(storage, "m", "stable", stable)
        for candidate in ("m-2", "m-4"):
            registry.check_engine(storage, registry.resolve(storage, "m", candidate))
        with pytest.raises(InputError, match="runs in the engine of m-1"):
            registry.check_engine(storage, registry.resolve(storage, "m", "m-5"))
