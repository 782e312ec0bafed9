"""A lifecycle on real Ray that has spent its node hours stops before the next stage, and goes on once it may."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from cluster.storage import LocalStorage
from pipelines import lifecycle, node_hours
from pipelines.config import NodeBudgetConfig
from pipelines.spending import BudgetExceeded, accounts
from tests.integration.test_stage_metrics import documents, recipe

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_cluster")]


def test_it_stops_before_training_and_goes_on_from_the_dataset(
    storage: LocalStorage, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = recipe("budget", documents(tmp_path / "documents"), tiny_model)
    poor = asked.replace(budget=NodeBudgetConfig(node_hours=1e-6))
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(node_hours, "MIN_NODE_S", 0.0)  # in a warm cluster cleaning takes no second
        for _ in range(2):
            with pytest.raises(BudgetExceeded):
                lifecycle.run(poor, storage)
    (account,), began_again_at = accounts(storage, "budget"), datetime.now(UTC)
    assert [(one.role, one.num_nodes) for one in account.spent] == [("dataset", 1)], "on the one node, and once"

    made = lifecycle.run(asked.replace(budget=NodeBudgetConfig(node_hours=1)), storage, until="train")
    assert made["dataset"].made_at < began_again_at < made["trained"].made_at
    (after,) = accounts(storage, "budget")
    assert after.by_stage["clean"] == account.by_stage["clean"]
    assert after.by_stage["train"] > 1 / 3600
