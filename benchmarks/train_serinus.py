"""serinus' side of bench_train.py: the train stage under Ray Train, on a private cluster, as `serinus run` has it.

    python benchmarks/train_serinus.py SETTINGS.json

Nothing of the stage is replaced: its worker notes the time at a few of its calls (train_times.py), and ends behind the step `stop`
as a killed one would. Settings are named in bench_train.py, and so is what it writes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]


def main(settings: str) -> None:
    given, times = json.loads(Path(settings).read_text()), {"started": psutil.Process().create_time()}
    from benchmarks.train_times import ASKED, TIMES
    from cluster.session import joined
    from cluster.storage import LocalStorage

    storage = LocalStorage(given["storage"])
    storage.write(ASKED, json.dumps(given["asked"]).encode())
    with joined():
        times["joined"] = time.time()
        _train(given, storage, times)
    (Path(given["out"]) / "driver.json").write_text(json.dumps(times))
    for rank in range(given["config"]["num_workers"]):
        blob = storage.read(f"{TIMES}/{rank}.json")
        assert blob is not None, "a rank wrote nothing"
        (Path(given["out"]) / f"{rank}.json").write_bytes(blob.content)


def _train(given: dict[str, Any], storage: Any, times: dict[str, float]) -> None:
    import pipelines.training.train as stage
    from benchmarks.train_times import Stopped, timed_worker
    from cluster.artifacts import Dataset, ImportedModel, load
    from cluster.errors import StageFailed
    from pipelines.config import TrainConfig
    from pipelines.training import fit, inputs

    dataset, base = load(storage, Dataset, given["dataset"]), load(storage, ImportedModel, given["base"])
    assert dataset is not None, "bench_train.py makes it"
    assert base is not None, "bench_train.py makes it"
    tokenising, fitting = cast("Any", inputs), cast("Any", fit)
    fitting.worker = timed_worker  # by its module's name: workers import it
    tokenising.make_tokens = _timing(inputs.make_tokens, times)
    try:
        stage.train(TrainConfig.model_validate(given["config"]), dataset, base, storage)
    except StageFailed as error:
        if given["asked"]["stop"] is None or Stopped.__name__ not in str(error):
            raise


def _timing(function: Callable[..., Any], times: dict[str, float]) -> Callable[..., Any]:
    def called(*args: Any, **kwargs: Any) -> Any:
        begun = time.time()
        result = function(*args, **kwargs)
        times["tokenised_s"] = time.time() - begun
        return result

    return called


if __name__ == "__main__":
    main(sys.argv[1])
