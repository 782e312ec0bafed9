"""Ranks without Ray: processes that train the tests' tiny model together, one configuration after the other.

`python -m tests.integration.training_ranks PHASES.json` imports DeepSpeed once, which takes longer than all training here,
and forks the ranks of each phase. `run_phases` starts it. No tests in here.
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.connection
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipelines.config import TrainConfig
from pipelines.training.batches import Batch, Batches, Packed, Source
from pipelines.training.guard import Kept
from pipelines.training.packing import Share, Stream
from pipelines.training.privacy import Terms
from pipelines.training.private_examples import Examples
from pipelines.training.private_examples import documents as split

END = 0
"""The tiny model's <|endoftext|>."""


def documents(seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Documents of 1 to 90 tokens that follow a rule, so that there is something to learn; each closed by END."""
    draw, parts = np.random.default_rng(seed), []
    while sum(map(len, parts)) < 6_000:
        first, step, length = draw.integers(3, 900), draw.integers(1, 9), draw.integers(1, 90)
        parts += [(first + step * np.arange(length)) % 990 + 3, [END]]
    return np.concatenate(parts).astype("<u2")


def batches(config: TrainConfig, rank: int, world_size: int, seed: int = 0) -> Batches:
    share = Share(rank, world_size, config.sequences_per_worker, config.accumulation)
    end = None if config.attend_across_documents else END
    return Batches(Packed(Stream([documents(seed)]), config.sequence_length, end), share, config.seed)


def old_batches(config: TrainConfig, rank: int, world_size: int) -> Batches:
    """Of documents that come before, one sequence each."""
    share = batches(config, rank, world_size, seed=1)
    return share._replace(share=share.share._replace(sequences=1))


SECRET = b"of the tests" * 3


def private(config: TrainConfig, rank: int, world_size: int) -> Examples:
    """The same documents one by one, and a mechanism whose epsilon nobody asks for."""
    assert config.privacy is not None
    assert config.privacy.noise_multiplier is not None
    stream = Stream([documents()])
    units = split(stream, END, len(stream.after(END)), config.sequence_length, "tokens")
    terms = Terms(
        noise_multiplier=config.privacy.noise_multiplier,
        sample_rate=config.total_sequences / units.num,
        num_steps=config.num_steps,
        delta=config.privacy.delta,
        max_gradient_norm=config.privacy.max_gradient_norm,
        marks=((config.num_steps, 1.0),),
        accountant="prv",
    )
    return Examples(units, rank, world_size, terms, SECRET, config.seed)


Points = list[dict[str, Any]]
"""Loss and so on, by step; `ids`: of the sequences that all ranks took, in their order, where this case trained the step;
`last_norm`: of the last step's gradient, before it is clipped, where DeepSpeed tells it."""


def run_phases(
    phases: list[tuple[int, list[dict[str, Any]]]], model: Path, folder: Path, timeout_s: float = 400
) -> list[list[Points]]:
    """What each case of each phase (number of ranks, cases) came to.

    Phases come one after the other; ranks that hold a copy of the model together need one of their own for each number of
    them. A case is a `config`, and maybe `load`, `save` and `save_at`, `spoil`: a step whose loss is no number, `export`: a
    folder for the model made, `keep`: one for Fisher's diagonal, `earlier`: such a folder and the number of ranks that wrote it,
    and `model`: another one to begin with.
    """
    given = folder / "phases.json"
    given.write_text(json.dumps({"model": str(model), "phases": phases}))
    variables = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MASTER_ADDR": "127.0.0.1"}
    command = [sys.executable, "-m", "tests.integration.training_ranks", str(given)]
    with (folder / "log").open("wb") as log:
        done = subprocess.run(command, env={**os.environ, **variables}, stdout=log, stderr=log, timeout=timeout_s)
    assert done.returncode == 0, (folder / "log").read_text()[-3000:]
    return [json.loads((folder / f"{number}.json").read_text()) for number in range(len(phases))]


def main(path: Path) -> int:
    import transformers  # noqa: F401

    given = json.loads(path.read_text())
    for number, (world_size, cases) in enumerate(given["phases"]):
        out = path.parent / f"{number}.json"
        if not _run_phase(world_size, Path(given["model"]), cases, out):
            return 1
    return 0


def _run_phase(world_size: int, model: Path, cases: list[dict[str, Any]], out: Path) -> bool:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=_rank, args=(n, world_size, port, model, cases, out)) for n in range(world_size)]
    for rank in ranks:
        rank.start()
    while (alive := [rank for rank in ranks if rank.is_alive()]) and not any(rank.exitcode for rank in ranks):
        multiprocessing.connection.wait([rank.sentinel for rank in alive])
    for rank in ranks:
        rank.kill()  # the others wait for one that failed
        rank.join()
    return out.exists()


def _rank(rank: int, world_size: int, port: int, model: Path, cases: list[dict[str, Any]], out: Path) -> None:
    import torch.distributed as dist

    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()})
    found = [_train_case(model, case) for case in cases]
    dist.barrier()
    if rank == 0:
        out.write_text(json.dumps(found))
    dist.destroy_process_group()


def spoilt(share: Batches, step: int) -> Any:
    """The loss, but no number on whatever rank has the first sequence of the data of `step`."""
    from pipelines.training.losses import next_token

    first = share._replace(share=share.share._replace(rank=0)).of_step(step)[0].ids[0]
    return lambda engine, batch: next_token(engine, batch) * (float("nan") if first in batch.ids else 1.0)


class Noted(NamedTuple):
    """A source that notes what is taken of it, one list a micro-batch."""

    source: Source
    taken: list[list[int]]

    @property
    def num(self) -> int:
        return self.source.num

    def at(self, place: int, seed: int) -> int:
        return self.source.at(place, seed)

    def batch(self, ids: list[int]) -> Batch:
        self.taken.append(ids)
        return self.source.batch(ids)


def gathered(taken: list[list[int]], share: Share, first: int) -> dict[int, list[int]]:
    """Step (from `first` + 1) -> sequences that all ranks took in it. Those that hold a copy together must have taken the same."""
    import torch.distributed as dist

    told: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(told, (share.rank, taken))
    copies = dict(told)
    assert all(copies[copy] == its for copy, its in told)
    steps = range(len(taken) // share.accumulation)
    micros = [range(step * share.accumulation, (step + 1) * share.accumulation) for step in steps]
    return {
        first + 1 + step: [i for micro in micros[step] for copy in sorted(copies) for i in copies[copy][micro]]
        for step in steps
    }


class Saved:
    """The checkpoint of a case, once it is written."""

    def __init__(self, case: dict[str, Any]) -> None:
        self._folder, self._step = Path(case.get("save", ".")), case.get("save_at", 0)

    def kept(self) -> list[Kept]:
        return [Kept(self._step, 0)]

    def read(self, engine: Any, place: int) -> Any:
        from pipelines.training import checkpoint

        return checkpoint.read(engine, self._folder)


def _save(engine: Any, record: Any, folder: Path) -> None:
    """From a copy of the states, which must hold what they do."""
    from pipelines.training import checkpoint

    other = folder.with_name(f"{folder.name}-states")
    for one, copy in ((folder, checkpoint.Snapshot()), (other, None)):
        one.mkdir(parents=True, exist_ok=True)
        checkpoint.part(engine, record, copy).write(one)
    for name in (f"{engine.global_rank}.bin", f"{engine.global_rank}.json"):
        assert (folder / name).read_bytes() == (other / name).read_bytes()


def _train_case(model: Path, case: dict[str, Any]) -> Points:
    from pipelines.training import checkpoint, importance, losses, train_steps
    from pipelines.training.checkpoint import Record
    from pipelines.training.consolidation import consolidate
    from pipelines.training.energy import Meter
    from pipelines.training.engine import build_engine
    from pipelines.training.export import save_model
    from pipelines.training.importance import Earlier
    from pipelines.training.parallel import replica

    config, model = TrainConfig.model_validate(case["config"]), Path(case.get("model", model))
    engine = build_engine(config, model)
    ranks = replica(engine)
    share = batches(config, *ranks)
    if asked := config.consolidation:
        old = old_batches(config, *ranks)
        before = Earlier(Path(case["earlier"][0]), case["earlier"][1], asked.online.decay) if asked.online else None
        fisher = consolidate(engine, old, asked.num_sequences, asked.weights[0], before)
        if "keep" in case:
            Path(case["keep"]).mkdir(parents=True, exist_ok=True)
            importance.write(engine, fisher, Path(case["keep"]))
    if "spoil" in case:
        train_steps.loss_of = lambda *_: spoilt(share, case["spoil"])
    begun = checkpoint.read(engine, Path(case["load"])) if "load" in case else Record()
    done = begun
    taken: list[list[int]] = []
    noted = share._replace(source=Noted(share.source, taken))
    data = private(config, *ranks) if config.privacy else noted
    meter = Meter(None, lambda: 1.0, on_gpu=False, device=engine.device)
    for done, _ in train_steps.train_steps(engine, config, data, begun, Saved(case), meter=meter):
        if done.step == case.get("save_at"):
            _save(engine, done, Path(case["save"]))
    drawn = (done.energy_j or 0.0) - (begun.energy_j or 0.0)
    assert drawn == engine.world_size * (done.step - begun.step), f"{drawn} J of 1 a rank and step"
    if "export" in case:
        whole = checkpoint.weights(engine)
        if engine.global_rank == 0:
            Path(case["export"]).mkdir()
            save_model(engine.module, whole, model, Path(case["export"]))
    ids = {} if done.incidents else gathered(taken, share.share, begun.step)
    norm = engine.get_global_grad_norm()
    engine.destroy()
    train_steps.loss_of = losses.loss_of
    of_all = {"incidents": len(done.incidents), "last_norm": None if norm is None else float(norm)}
    own = [{**of_all, "ids": ids.get(point.step)} for point in done.losses]
    return [{**point.model_dump(), **more} for point, more in zip(done.losses, own, strict=True)]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
