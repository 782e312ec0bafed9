"""A cluster of its own whose clock is set while it works: `python -m tests.chaos.clock_driver WHAT FOLDER OFFSET [MODEL]`.

Run it with set_clock.c preloaded: every process of the cluster, Ray's own too, then takes its wall clock from the file $SET_CLOCK.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from cluster.session import joined
from cluster.storage import LocalStorage


def set_clock(offset: str) -> None:
    """By so many seconds from the machine's own, as "+3600"."""
    with open(os.environ["SET_CLOCK"], "r+b", buffering=0) as file:  # in place: it is mapped
        file.write(offset.ljust(16).encode())


def rollout(folder: Path, offset: str) -> dict[str, Any]:
    """One that is under way as the clock is set, and set back."""
    from tests.integration.rollout_world import CONFIG, Deployed

    steps = tuple(step.replace(min_duration_s=4) for step in CONFIG.steps)
    world = Deployed("jumping", folder)
    try:
        began = time.monotonic()
        world.start(CONFIG.replace(steps=steps))
        world.wait(lambda status: status.weight_applied_at is not None)
        set_clock(offset)
        world.wait(lambda status: status.step == 1)
        first_s = time.monotonic() - began
        set_clock("+0")
        status = world.wait(lambda status: status.ended)
        decisions = [(d.action, d.reason) for d in status.decisions]
        return {"phase": status.phase, "decisions": decisions, "first_s": first_s, "took_s": time.monotonic() - began}
    finally:
        world.close()


def training(folder: Path, offset: str, model: str) -> dict[str, Any]:
    """A run of two ranks, whose watch waits for twenty seconds."""
    from pipelines.training.train import train
    from tests.chaos.training_world import last_registered, registered, wait_for
    from tests.integration.training_case import base_model, chaos_run, small_dataset

    storage, jumped_at_steps = LocalStorage(folder / "storage"), list[int]()

    def jump() -> None:
        for step, clock in ((2, offset), (5, "+0")):
            wait_for(lambda at_least=step: registered(storage, at_least), "a checkpoint")  # type: ignore[misc]
            set_clock(clock)
            jumped_at_steps.append(last_registered(storage))

    threading.Thread(target=jump, daemon=True).start()
    config = chaos_run(hang_timeout_s=20, max_failures=0)
    made = train(config, small_dataset(storage), base_model(storage, Path(model)), storage)
    losses = [point.loss for point in made.losses]
    return {"losses": losses, "resumed": made.resumed_at_steps, "jumped": jumped_at_steps, "took_s": made.took_s}


def main(what: str, folder: str, offset: str, *words: str) -> None:
    set_clock("+0")
    with joined():
        told = {"rollout": rollout, "training": training}[what](Path(folder), offset, *words)
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
