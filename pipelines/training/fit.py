"""A run as Ray Train carries it out: by a group of workers, or by several one after another."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cluster import pools, session
from cluster.storage import LocalStorage, Storage, filesystem_to_write
from cluster.waiting import wait_for_room
from pipelines import progress
from pipelines.config import TrainConfig
from pipelines.training.checkpoint_list import mend_list
from pipelines.training.failure import explained, lacked_room
from pipelines.training.figures import Figures, shown
from pipelines.training.loop import worker
from pipelines.training.starts import starts
from pipelines.training.trackers import Guarded, open_trackers
from pipelines.training.watch import Watch
from pipelines.training.worker_plan import Plan
from pipelines.training.zero3 import kept_checkpoints


def fit(config: TrainConfig, storage: Storage, plan: Plan) -> dict[str, Any]:
    """What rank 0 returns of the finished run (loop.py), and `starts`.

    Raises:
        UserError: of a rank; or no checkpoint of the run is whole; or the pool had no room for workers who had to leave a machine.
        StageFailed: the workers failed more than `max_failures` times.
        KeyboardInterrupt: Ctrl-C.
    """
    import ray
    from ray.train import TrainingFailedError

    mend_list(storage, plan.run)
    trackers = open_trackers(config, storage, plan.run.rpartition("/")[2])
    figures = ray.remote(num_cpus=0)(Figures).options(label_selector=_this_node()).remote()
    watch, pool = Watch(config, figures), pools.on_pool(config.pool)
    try:
        with shown(figures, config.num_steps, Guarded(trackers)), watch.kept():
            while (outcome := _outcome(config, storage, plan, figures, pool)) is None:
                pass
    except TrainingFailedError as error:
        raise explained(error, config, storage, plan.run, watch.found) from error
    finally:
        ray.kill(figures)
    return {**outcome, "starts": starts(storage, plan.run)}


def _outcome(
    config: TrainConfig, storage: Storage, plan: Plan, figures: Any, pool: dict[str, str]
) -> dict[str, Any] | None:
    """Of the run; or None once there is room for it again, where its workers had to leave a node or could not all be placed."""
    from ray.train import TrainingFailedError

    workers = [_resources(config)] * config.num_workers
    try:
        outcome = _group(config, storage, plan, figures, pool)
    except TrainingFailedError as error:
        # Where there was room all the time, they do not start for another reason.
        if lacked_room(error) and wait_for_room("train", config.pool, workers, pool):
            return None
        raise
    if (left := outcome.get("left_at_step")) is None:
        return outcome
    progress.say("train", f"a node is taken away: checkpoint of step {left} written, going on elsewhere")
    wait_for_room("train", config.pool, workers, pool)
    return None


def _group(config: TrainConfig, storage: Storage, plan: Plan, figures: Any, pool: dict[str, str]) -> dict[str, Any]:
    """What workers in the pool with these labels come to, or those that took their place when they failed."""
    from ray.train.torch import TorchConfig, TorchTrainer

    trainer = TorchTrainer(
        worker,
        train_loop_config={"plan": plan._asdict(), "figures": figures},
        torch_config=TorchConfig(backend="nccl" if config.gpus_per_worker else "gloo"),
        scaling_config=_scaling(config, pool),
        run_config=_run_config(config, storage, plan.run),
    )
    with _own_interrupt():
        outcome: dict[str, Any] = trainer.fit().return_value
    return outcome


def _this_node() -> dict[str, str]:
    import ray

    return {"ray.io/node-id": ray.get_runtime_context().get_node_id()}


def _resources(config: TrainConfig) -> dict[str, float]:
    """Of a worker."""
    resources = {"CPU": config.cpus_per_worker}
    return resources | {"GPU": config.gpus_per_worker} if config.gpus_per_worker else resources


def _scaling(config: TrainConfig, pool: dict[str, str]) -> Any:
    from ray.train import ScalingConfig

    return ScalingConfig(
        num_workers=config.num_workers,
        use_gpu=config.gpus_per_worker > 0,
        resources_per_worker=_resources(config),
        label_selector=pool or None,
    )


def _run_config(config: TrainConfig, storage: Storage, run: str) -> Any:
    """The same name under the same path makes Ray Train take up an interrupted run from its newest checkpoint."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig
    from ray.train.v2.api.config import LoggingConfig

    folder, name = run.rsplit("/", 1)
    filesystem, path = filesystem_to_write(storage, folder)
    return RunConfig(
        name=name,
        storage_path=path,
        storage_filesystem=None if isinstance(storage, LocalStorage) else filesystem,
        checkpoint_config=CheckpointConfig(num_to_keep=kept_checkpoints(config)),
        # The second counts workers that die while they start.
        failure_config=FailureConfig(max_failures=config.max_failures, controller_failure_limit=config.max_failures),
        logging_config=LoggingConfig(log_level="ERROR"),
        worker_runtime_env={"env_vars": _worker_environment(config)},
    )


def _worker_environment(config: TrainConfig) -> dict[str, str]:
    threads = str(max(1, int(config.cpus_per_worker)))
    variables = {"OMP_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return variables if config.gpus_per_worker else {**variables, **session.KEEP_MEMORY, "DS_ACCELERATOR": "cpu"}


@contextmanager
def _own_interrupt() -> Iterator[None]:
    """Ray Train's handler of Ctrl-C ends its workers and leaves by SystemExit(0): make that the interrupt it was."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, before)
