"""`serinus train plan`: the prediction as a table, or as JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cluster.demand import Demand, nodes
from cluster.storage import Storage, open_storage
from cluster.topology import load_topology
from pipelines.config import LifecycleConfig, TrainConfig
from pipelines.training.memory import Memory
from pipelines.training.plan import GIB, Plan, make_plan, rate_of, room_of, trouble
from pipelines.training.shape import Shape, check_parallel, check_rounding, read_shape
from pipelines.training.sizes import shapes, short

COLUMNS = {
    "parameters": "weights", "gradients": "grads", "masters": "master", "optimizer": "Adam",
    "activations": "activ.", "logits": "logits", "buffers": "buffers", "at_step": "step", "copy": "copy",
    "peak": "peak", "host": "host",
}  # fmt: skip
"""Fields of Memory, and the words over them."""


def train_commands(load: Callable[[Path], LifecycleConfig], out: Console) -> typer.Typer:
    """The commands under `serinus train`."""
    app = typer.Typer(help="Training before it starts.")

    @app.callback()
    def group() -> None:
        """Training before it starts."""

    @app.command("plan")
    def plan(
        recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="YAML file of the lifecycle")],
        model: Annotated[Path | None, typer.Option(help="folder with the base model's config.json")] = None,
        topology: Annotated[Path | None, typer.Option(help="the cluster's declaration")] = None,
        gib: Annotated[
            float | None, typer.Option(min=0.001, help="memory of one rank's device, in place of the pool's")
        ] = None,
        *,
        as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False,
    ) -> None:
        """Predict memory a rank and time of the recipe's training. Exit code 1 when it does not fit."""
        loaded = load(recipe)
        shape = read_shape(str(model), "--model") if model else read_shape(loaded.model.source)
        shape = last_shape(loaded, shape)
        made = plan_recipe(loaded, shape, topology, gib, open_storage(loaded.storage))
        if as_json:
            print(json.dumps(as_document(made, shape), indent=1))
        else:
            _show(made, shape, loaded, out)
        raise typer.Exit(1 if trouble(made) else 0)

    return app


def plan_recipe(
    recipe: LifecycleConfig, shape: Shape, topology: Path | None, gib: float | None, storage: Storage | None
) -> Plan:
    """The plan of a recipe's training on a declared cluster.

    Args:
        gib: of one rank's device, in place of what the pool's declaration says.

    Raises:
        ConfigError: the model cannot be held by several workers, or rounded in training, as the recipe asks.
    """
    from cluster.errors import UserError

    declared, config = load_topology(topology), recipe.last_train
    check_parallel(shape, config.parallel)
    check_rounding(shape, config.quantization_aware)
    room = room_of(config, declared, _free_here() if not config.gpus_per_worker else None)
    if gib is not None:
        room = room._replace(num_bytes=gib * GIB, what="a rank's device, as given")
    try:
        rate = rate_of(config, declared, storage)
    except UserError:  # a bucket that cannot be reached from here: there is no earlier run to learn from
        rate = rate_of(config, declared, None)
    return make_plan(shape, config, room, rate)


def last_shape(recipe: LifecycleConfig, source: Shape) -> Shape:
    """Of the model that is made: the source's, or the last stage's of a progressive training.

    Raises:
        ConfigError: there is no model of a stage's sizes.
    """
    return shapes(recipe.progressive, source)[-1] if recipe.progressive else source


def stages_of(recipe: LifecycleConfig) -> list[str]:
    """For `serinus check`: a progressive training's stages in one line, with parameters where the model can be read here, and
    a line for each that is too short.

    Raises:
        ConfigError: there is no model of a stage's sizes.
    """
    from cluster.errors import UserError

    if recipe.progressive is None:
        return []
    runs = recipe.progressive.runs(recipe.train)
    told = f"progressive: {len(recipe.progressive.stages)} stages, {len(runs)} runs of {runs[0].train.num_steps} to"
    told += f" {max(run.train.num_steps for run in runs)} steps"
    try:
        source = read_shape(recipe.model.source)
    except UserError:
        return [f"{told}; the model's size is not known here"]
    sizes = [shape.num_parameters for shape in shapes(recipe.progressive, source)]
    doubts = [f"but: {doubt}" for doubt in short(recipe.progressive, sizes)]
    return [f"{told}; about {', '.join(f'{size / 1e6:.3g} M' for size in sizes)} parameters", *doubts]


def warning(recipe: LifecycleConfig) -> str | None:
    """For `serinus check`: that the training will probably not fit, where the model can be read here.

    Raises:
        ConfigError: the model cannot be held by several workers, or rounded in training, as the recipe asks.
    """
    found = trouble(plan) if (plan := _planned(recipe)) else None
    return f"train.zero: {found[0]}\n  -> {found[1]}; all of it: serinus train plan" if found else None


def over_budget(recipe: LifecycleConfig, topology: Path | None = None) -> str | None:
    """For `serinus check`: that the training alone will probably spend more than `budget.node_hours`, where that can be said here.

    Raises:
        ConfigError: as `warning`.
    """
    if recipe.budget is None or (plan := _planned(recipe)) is None or plan.time_s is None:
        return None
    pool, config = load_topology(topology).pool(recipe.train.pool), recipe.last_train
    workers = Demand(
        field="train.num_workers", stage="train", pool=pool.name, count=config.num_workers,
        cpus=config.cpus_per_worker, gpus=config.gpus_per_worker,
    )  # fmt: skip
    hours = plan.time_s / 3600 * max(nodes(pool, workers), 1)
    if hours <= recipe.budget.node_hours:
        return None
    return (
        f"budget.node_hours: {recipe.budget.node_hours:g}, and training alone is predicted to take {hours:.3g}"
        f"\n  -> raise it, or the lifecycle stops once they are spent ({plan.rate.basis if plan.rate else ''})"
    )


def _planned(recipe: LifecycleConfig) -> Plan | None:
    """None where the model or the cluster is elsewhere: nothing can be said here."""
    from cluster.errors import UserError

    try:
        shape = read_shape(recipe.model.source)
    except UserError:
        return None
    shape = last_shape(recipe, shape)
    check_parallel(shape, recipe.train.parallel)
    check_rounding(shape, recipe.train.quantization_aware)
    try:
        return plan_recipe(recipe, shape, None, None, None)
    except UserError:
        return None


def _free_here() -> float:
    import psutil

    return float(psutil.virtual_memory().available)


def as_document(plan: Plan, shape: Shape) -> dict[str, Any]:
    """For machines: bytes a rank, operations, seconds."""
    return {
        "model": shape.model_dump(mode="json"),
        "room_bytes": plan.room.num_bytes,
        "room": plan.room.what,
        "options": [
            {
                "zero": option.zero.model_dump(mode="json", exclude={"extra"}),
                "chosen": option.chosen,
                "fits": option.fits,
                "bytes": {name: round(getattr(option.memory, name)) for name in COLUMNS},
            }
            for option in plan.options
        ],
        "num_tokens": plan.num_tokens,
        "flops": plan.flops,
        "flops_per_worker_s": plan.rate.flops if plan.rate else None,
        "rate_basis": plan.rate.basis if plan.rate else None,
        "time_estimate_s": plan.time_s,
    }


def _show(plan: Plan, shape: Shape, recipe: LifecycleConfig, out: Console) -> None:
    config = recipe.last_train
    out.print(
        f"{recipe.model.source}: {shape.num_parameters / 1e6:,.1f} M parameters ({shape.counted}); "
        f"{_ranks(config)}, {config.precision}, {config.sequences_per_worker} x {config.sequence_length} tokens at once",
        markup=False,
    )
    out.print(f"\n{_whole(_table(plan))}\n", markup=False, soft_wrap=True)
    known = "is not known (--gib)" if plan.room.num_bytes is None else f"{plan.room.num_bytes / GIB:.2f} GiB"
    out.print(
        f"Room of a rank: {plan.room.what}: {known}. GiB a rank, predicted. * is what the recipe asks for.",
        markup=False,
    )
    out.print(
        "Peak: weights, master, Adam and the copy of them that checkpoints are written from, and the larger of two moments: at a "
        "loss activations, logits and buffers, with the gradients at stage 3 and behind another micro-batch; in the step "
        "gradients, what is copied of them and buffers.",
        markup=False,
    )
    out.print(_time(plan), markup=False)
    if found := trouble(plan):
        out.print(f"does not fit: {found[0]}\n  -> {found[1]}", markup=False)


def _ranks(config: TrainConfig) -> str:
    together = config.parallel.workers
    copies = f" ({config.replicas} copies of the model, each on {together})" if together > 1 else ""
    return f"{config.num_workers} ranks{copies}"


def _whole(table: Table) -> str:
    """As wide as its figures are: in a log or a narrow terminal rich would cut them, and a part of a figure tells nothing."""
    wide = Console(width=1000, file=io.StringIO(), color_system=None)
    with wide.capture() as told:
        wide.print(table)
    return "\n".join(line.rstrip() for line in told.get().splitlines())


def _table(plan: Plan) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("ZeRO", no_wrap=True)
    for words in (*COLUMNS.values(), "fits"):
        table.add_column(words, justify="right", no_wrap=True)
    for option in plan.options:
        verdict = {True: "yes", False: "no", None: "?"}[option.fits]
        table.add_row(("* " if option.chosen else "  ") + option.name, *_cells(option.memory), verdict)
    return table


def _cells(memory: Memory) -> list[str]:
    return [f"{getattr(memory, name) / GIB:.2f}" for name in COLUMNS]


def _time(plan: Plan) -> str:
    what = f"{plan.num_tokens:,} tokens, {plan.flops:.2e} operations"
    if plan.rate is None or plan.time_s is None:
        return f"Time: {what}; no rate is known for these devices, so no estimate."
    took = f"{plan.time_s / 3600:.2f} h ({plan.time_s:,.0f} s)"
    return f"Time, an estimate: {took}: {what} at {plan.rate.flops:.2e} a second and worker ({plan.rate.basis})."
