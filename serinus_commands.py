"""Commands that need both how a model is made and how it is run: `serinus check`, `run`, `submit` and `deploy`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cluster import artifacts, job_commands, registry
from cluster.command_line import RecipePath, TopologyOption
from cluster.config import load_yaml
from cluster.console import out
from cluster.errors import ConfigError
from cluster.lease import exclusive
from cluster.recipe import remember
from cluster.storage import Storage, open_storage
from cluster.telemetry import bind
from pipelines.config import STAGES, Stage
from serinus_recipe import Recipe, few_keys, workload

RENEW_BEFORE = timedelta(days=14)
"""`check` tells of certificates that end sooner."""


def register(app: typer.Typer) -> None:
    """Put the commands among those of `app`."""
    for command in (check, run, submit, deploy):
        app.command()(command)


def check(recipe: RecipePath) -> None:
    """Read a recipe and say what is wrong with it, in under a second."""
    from pipelines.training import plan_command as train_plan
    from services.serving import tls

    found = load_yaml(recipe, Recipe)
    doubts = [
        doubt
        for doubt in (train_plan.warning(found), train_plan.over_budget(found), *found.caveats, few_keys(found))
        if doubt
    ]
    counts = (
        f"{len(found.data.sources)} source(s), {found.last_train.num_steps} steps, {len(found.evaluate.tasks)} task(s), "
        f"{len(found.rollout.steps)} rollout step(s)"
    )
    out.print(f"{recipe}: good. {counts} for {found.name}", markup=False)
    for line in train_plan.stages_of(found):
        out.print(line, markup=False)
    for doubt in doubts:
        out.print(f"but: {doubt}", markup=False)
    if (until := tls.check(found.serve)) and until < datetime.now(UTC) + RENEW_BEFORE:
        out.print(f"but: serve.tls.certificate holds until {until:%Y-%m-%d %H:%M} UTC alone: renew it", markup=False)


def run(
    recipe: RecipePath,
    until: Annotated[Stage | None, typer.Option(help="stop after this stage")] = None,
    remake_from: Annotated[
        Stage | None, typer.Option("--from", help="make this stage and those after it again")
    ] = None,
) -> None:
    """Run a recipe: clean, train, evaluate, quantize, gate, publish. What is already made is skipped."""
    loaded = load_yaml(recipe, Recipe)
    if until and remake_from and STAGES.index(until) < STAGES.index(remake_from):
        raise ConfigError("--until", f"{until} comes before --from {remake_from}", "swap the two")
    from cluster import session
    from pipelines import lifecycle
    from pipelines.progress import say
    from services.commands.queue import let_wait

    storage = open_storage(loaded.storage)
    began = time.monotonic()
    bind(run=f"{loaded.name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}", model=loaded.name)
    before = registry.aliases(storage, loaded.name).get("candidate")
    with exclusive(storage, f"run-{loaded.name}"), session.joined() as where:
        say("run", f"{loaded.name} on {where} cluster, artifacts in {storage.uri}")
        made = lifecycle.run(loaded, storage, until=until or "publish", remake_from=remake_from)
    _print_made(made, storage)
    candidate = registry.aliases(storage, loaded.name).get("candidate")
    if candidate not in (None, before) and (done := let_wait(loaded, storage, str(candidate))):
        out.print(done)
    out.print(f"took {time.monotonic() - began:.0f} s")


def _print_made(made: Mapping[str, artifacts.Manifest], storage: Storage) -> None:
    out.print(f"made in {storage.uri}", markup=False)
    for role, manifest in made.items():
        out.print(f"  {role:<17}{escape(manifest.summary)}\n  {'':<17}[dim]{manifest.location}/manifest.json[/]")


def submit(
    recipe: RecipePath,
    *,
    follow: Annotated[bool, typer.Option(help="show the job's log until it ends")] = True,
    working_dir: Annotated[
        Path | None,
        typer.Option(
            help="ship this folder, in which RECIPE is, and run it there; .gitignore and .serinusignore leave out"
        ),
    ] = None,
    k8s: job_commands.K8sOption = False,
    namespace: job_commands.NamespaceOption = None,
    overlay: Annotated[str, typer.Option(help="with --k8s: dev, gpu or production")] = "gpu",
    image: Annotated[str | None, typer.Option(help="with --k8s: in place of the overlay's")] = None,
    topology: TopologyOption = None,
) -> None:
    """Run a recipe as a Ray job on the cluster, or with --k8s as a RayJob on a cluster of its own, and follow its log."""
    from cluster import jobs
    from cluster.dispatch import dispatched

    if k8s:
        if working_dir:
            raise ConfigError("--working-dir", "is not shipped to Kubernetes", "build it into the image: --image")
        raise typer.Exit(_submit_k8s(recipe, namespace, overlay, image, topology, follow=follow))
    loaded = load_yaml(recipe, Recipe)
    with dispatched(recipe, loaded.model_dump(mode="json", exclude_unset=True), working_dir) as (folder, file):
        job = jobs.submit([jobs.python(), "-m", "serinus", "run", file], working_dir=folder)
    out.print(f"submitted {job}")
    if follow:
        raise typer.Exit(job_commands.followed(job, jobs))


def _submit_k8s(
    recipe: Path, namespace: str | None, overlay: str, image: str | None, topology: Path | None, *, follow: bool
) -> int:
    """The job `lifecycle` that `k8s render` writes, with this recipe; returns the job's exit code."""
    from cluster.kuberay.render import lifecycle_job
    from cluster.rayjobs import RayJobs
    from cluster.topology import load_topology

    declared = load_topology(topology)
    work = workload(recipe, overlay, declared)
    document = lifecycle_job(declared, overlay, work, image)
    where = RayJobs(namespace)
    job = where.submit(document, work.recipe)
    out.print(f"submitted {job}")
    return job_commands.followed(job, where, job_commands.again(True, namespace)) if follow else 0


def deploy(recipe: RecipePath) -> None:
    """Put the stable revision behind the gateway; the first one is the base model, quantized."""
    from services.commands.cluster import in_public_cluster

    loaded = load_yaml(recipe, Recipe)
    with in_public_cluster():
        from pipelines import lifecycle
        from services.commands import deploy as serving

        storage = open_storage(loaded.storage)
        if "stable" not in registry.aliases(storage, loaded.name):
            lifecycle.baseline(loaded, storage)
        url = serving.deploy(loaded, storage, recipe)
    remember(recipe)
    out.print(f"{loaded.name} answers at {url}")
