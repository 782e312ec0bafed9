"""serinus, the command line: raw text to a language model in production on Ray, each new model let in like a canary."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import model_validator
from rich.console import Console

from cluster import artifacts, config, job_commands, lineage_command, local_commands, registry
from cluster.command_line import RecipePath, TopologyOption, with_groups
from cluster.config import load_yaml
from cluster.doctor import commands as doctor_command
from cluster.errors import ConfigError, SerinusError
from cluster.storage import Storage, exclusive, open_storage
from cluster.telemetry import bind
from pipelines import adapter_command
from pipelines.config import STAGES, LifecycleConfig, Stage
from pipelines.evaluation import agreement_command, canaries_command, eval_command, report_command
from services.config import NotifyConfig, RolloutConfig, ServingConfig

if TYPE_CHECKING:
    from cluster.check_commands import Asked
    from cluster.kuberay.settings import Workload
    from cluster.topology import Topology

RENEW_BEFORE = timedelta(days=14)
"""`check` tells of certificates that end sooner."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

out = Console(highlight=False, soft_wrap=True)


class Recipe(LifecycleConfig):
    """A whole lifecycle: how a model is made (pipelines) and how it is run (services)."""

    serve: ServingConfig = ServingConfig()
    rollout: RolloutConfig = RolloutConfig()
    notify: NotifyConfig = NotifyConfig()

    @property
    def caveats(self) -> tuple[str, ...]:
        """What these settings cannot do, for whoever checks a recipe."""
        caveats = (*self.quantization_caveats, *self.rollout.caveats)
        if not self.rollout.feedback or self.serve.admission.keys:
            return caveats
        who = "without serve.admission.keys a user is whoever a client says it is, so that one client can vote as many"
        return (*caveats, f"rollout.feedback: {who}, and take a canary out")

    @model_validator(mode="after")
    def _copies_to_judge_by(self) -> Recipe:
        if self.rollout.begins_with_copies and not 0 < self.serve.shadow.percent < 100:
            found = f"serve.shadow.percent is {self.serve.shadow.percent:g}"
            raise ValueError(
                f"rollout.steps begins at 0 %, by copies compared with requests that are not copied, and {found}: "
                "set it to a share between 0 and 100"
            )
        return self


# --- reading a recipe -------------------------------------------------------------------------------------------------


def _read(given: Path | None) -> Recipe:
    """None: the recipe of the last `serinus deploy`."""
    return load_yaml(_remembered() if given is None else given, Recipe)


def _remembered() -> Path:
    path = config.home() / "deployed.json"
    try:
        return Path(json.loads(path.read_text())["recipe"])
    except FileNotFoundError:
        raise ConfigError("--recipe", "no recipe given and none deployed yet", "add --recipe RECIPE") from None
    except (OSError, ValueError, TypeError, KeyError):
        found = f"none given, and {path} does not say which one was deployed last"
        raise ConfigError("--recipe", found, "add --recipe RECIPE") from None


def _remember(recipe: Path) -> None:
    path = config.home() / "deployed.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"recipe": str(recipe.resolve())}))


def _named(recipe: Path | None) -> doctor_command.Named:
    """What the doctor looks at."""
    loaded = load_yaml(recipe, Recipe) if recipe else None
    serve = loaded.serve if loaded else ServingConfig()
    keys = [Path(serve.admission.keys)] if serve.admission.keys else []
    return doctor_command.Named(loaded.storage if loaded else None, keys, serve.port)


def _asked(recipe: Path) -> Asked:
    """What the recipe asks of the cluster, and how many parameters its model has where that is known."""
    from cluster.check_commands import Asked
    from pipelines import demand as lifecycle
    from pipelines.model_size import num_parameters
    from services import demand as serving

    loaded = load_yaml(recipe, Recipe)
    size = num_parameters(loaded.model.source)
    heaviest = max(plan.bytes_per_weight for plan in loaded.quantize.plans)
    demands = [*lifecycle.demands(loaded, size), *serving.demands(loaded.serve, size, heaviest)]
    return Asked(demands, loaded.model.source, size)


def _workload(path: Path, overlay: str, topology: Topology) -> Workload:
    """What the recipe means for a cluster on Kubernetes."""
    from cluster.kuberay.fit import pods_of_stages
    from cluster.kuberay.recipe import in_cluster
    from cluster.kuberay.render import settings_of
    from cluster.kuberay.settings import PROJECT_FOLDER, Workload
    from cluster.session import package_root
    from pipelines.demand import demands

    loaded, settings, root = load_yaml(path, Recipe), settings_of(overlay), package_root()
    dumped = loaded.model_dump(mode="json", exclude_unset=True)
    script = path.resolve().parent / path.stem / "prepare.py"
    known = script.exists() and script.is_relative_to(root)
    return Workload(
        name=loaded.name,
        recipe=in_cluster(dumped, str(path), root, settings),
        port=loaded.serve.port,
        tls=loaded.serve.tls is not None,
        prepare=f"python {PROJECT_FOLDER / script.relative_to(root)}" if known else None,
        nodes={**pods_of_stages(topology, settings, demands(loaded), str(path)), "publish": {}},
    )


def _few_keys(recipe: Recipe) -> str | None:
    """A user is a key where there are keys: what so few of them cannot show."""
    path = recipe.serve.admission.keys
    if path is None or not os.access(path, os.R_OK):  # it may lie on the head node alone, or be another user's
        return None
    from services.serving.keys import KeyFile

    if few := recipe.rollout.too_few(len(load_yaml(Path(path), KeyFile).keys)):
        return f"serve.admission.keys: {few}"
    return None


def _model_folder(gguf: Path) -> Path:
    """A .gguf file as a Hugging Face folder, made once."""
    from pipelines.base_model import as_folder

    return as_folder(gguf, open_storage(str(config.home() / "models")))


# --- commands that need both how a model is made and how it is run ----------------------------------------------------


def check(recipe: RecipePath) -> None:
    """Read a recipe and say what is wrong with it, in under a second."""
    from pipelines.training import plan_command as train_plan
    from services.serving import tls

    found = load_yaml(recipe, Recipe)
    doubts = [doubt for doubt in (train_plan.warning(found), *found.caveats, _few_keys(found)) if doubt]
    out.print(f"{recipe}: good. {len(found.data.sources)} source(s), {found.last_train.num_steps} steps, "
              f"{len(found.evaluate.tasks)} task(s), {len(found.rollout.steps)} rollout step(s) for {found.name}")  # fmt: skip
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
    out.print(f"made in {storage.uri}")
    for role, manifest in made.items():
        out.print(f"  {role:<17}{manifest.summary}\n  {'':<17}[dim]{manifest.location}/manifest.json[/]")


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
    work = _workload(recipe, overlay, declared)
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
    _remember(recipe)
    out.print(f"{loaded.name} answers at {url}")


# --- all commands, in the order in which --help lists them ------------------------------------------------------------


def _group(purpose: str, register: Callable[..., None], *given: object) -> typer.Typer:
    group = typer.Typer(help=purpose)
    register(group, *given)
    return group


def _canary() -> typer.Typer:
    from services.commands import canary, rollouts

    group = typer.Typer(help="Let a candidate into production step by step.")
    canary.register_start(group, _read, out)
    rollouts.register_now(group, _read, out)
    canary.register_acts(group, _read, out)
    rollouts.register_offline(group, _read, out)
    return group


def _gate() -> typer.Typer:
    from pipelines import gate_command

    return _group("The verdict on a model that was made.", gate_command.register, _read, out)


def _keys() -> typer.Typer:
    from services.commands import keys

    return _group("Who may ask the gateway, and how much.", keys.register, _read)


def _cluster() -> typer.Typer:
    from cluster import check_commands

    return _group("The cluster's declaration.", check_commands.register, _asked, out)


def _data() -> typer.Typer:
    from pipelines.data import commands, openlineage_command, plan_command
    from pipelines.data.annotation import commands as annotation
    from pipelines.data.preferences import commands as preferences

    group = typer.Typer(
        help="The record of every document: where it came from, what became of it, which models have seen it."
    )
    commands.register(group, _read)
    plan_command.register(group, _read, out.print)
    openlineage_command.register(group, _read, commands.say)
    annotation.register(group, lambda recipe: open_storage(_read(recipe).storage), commands.say)
    preferences.register(group, _read, commands.say)
    return group


def _k8s() -> typer.Typer:
    from cluster.kuberay import commands

    return _group("The same cluster on Kubernetes.", commands.register, _workload, out)


def _train() -> typer.Typer:
    from pipelines.training import plan_command

    return plan_command.train_commands(_read, out)


GROUPS = {
    "canary": _canary, "gate": _gate, "keys": _keys, "cluster": _cluster, "data": _data, "k8s": _k8s,
    "jobs": lambda: job_commands.app, "train": _train,
}  # fmt: skip

app = typer.Typer(help=__doc__, add_completion=False, rich_markup_mode=None, cls=with_groups(GROUPS))
local_commands.register(app, out)
doctor_command.register(app, _named)
app.command()(check)
app.command()(run)
adapter_command.register(app, _read, out)
app.command()(submit)
lineage_command.register(app, _read, out)
app.command()(deploy)
report_command.add_to(app, _read)
canaries_command.register(app, out)
eval_command.register(app, out, _model_folder)
agreement_command.register(app, out)


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 the answer is no, 2 something to mend, 3 broken off, 130 interrupted."""
    try:
        code = app(args=sys.argv[1:] or ["--help"], prog_name="serinus", standalone_mode=False)
        if code == INTERRUPTED:  # typer's answer to Ctrl-C
            raise KeyboardInterrupt
        sys.exit(code)
    except typer.TyperException as error:
        print(f"error: {error.format_message()}\n  -> see: serinus --help, serinus COMMAND --help", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        print("\ninterrupted. What was made is kept; the same command continues from there", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except SerinusError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
