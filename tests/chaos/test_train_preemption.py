"""Word that a node is taken away makes all ranks leave together; on machines of their own: test_train_nodes.py."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from cluster.storage import LocalStorage
from pipelines.training import fit
from pipelines.training.train import train
from tests.chaos.training_nodes import steps_trained
from tests.integration.training_case import base_model, golden_losses, small_dataset, small_run

pytestmark = [pytest.mark.integration, pytest.mark.chaos, pytest.mark.timeout(600)]


def told_of_it(given: dict[str, Any]) -> dict[str, Any]:
    """The train stage's worker, of which rank 1 gets Ray Train's word of a node that is drained in step 3, once."""
    import torch.distributed as dist
    from ray.train.v2._internal.execution.context import get_train_context
    from ray.train.v2.api.preemption import PreemptionInfo

    from pipelines.training import loop, train_steps

    take = train_steps.optimizer_step

    def notice(engine: Any, batches: Any, step: int, *args: Any) -> Any:
        if step == 2 and dist.get_rank() == 1:
            get_train_context().preemption_context.preemption_info = PreemptionInfo(None, {"node": [1]})
        return take(engine, batches, step, *args)

    here: Any = train_steps
    here.optimizer_step = notice
    return loop.worker(given)


@pytest.mark.usefixtures("ray_cluster")
def test_word_to_one_rank_makes_all_leave_after_that_step_and_go_on_there(
    storage: LocalStorage, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    dataset, base = small_dataset(storage), base_model(storage, tiny_model)
    monkeypatch.setattr(fit, "worker", told_of_it)
    made = train(small_run(max_failures=0), dataset, base, storage)
    assert made.resumed_at_steps == (3,)
    assert "checkpoint of step 3 written, going on elsewhere" in " ".join(capfd.readouterr().err.split())
    assert steps_trained(storage.root) == Counter(range(1, 9))
    assert [point.loss for point in made.losses] == pytest.approx(golden_losses(), rel=1e-3)
