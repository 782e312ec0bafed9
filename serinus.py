"""serinus, the command line: raw text to a language model in production on Ray, each new model let in like a canary."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import model_validator
from rich.console import Console
from rich.table import Table

from cluster import artifacts, config, job_commands, registry
from cluster.config import load_yaml
from cluster.errors import ClusterError, ConfigError, InputError, SerinusError
from cluster.storage import Storage, exclusive, open_storage
from cluster.telemetry import printable
from pipelines.config import STAGES, LifecycleConfig, Stage
from pipelines.data import plan_command as data_plan
from pipelines.evaluation import report_command
from pipelines.training import plan_command as train_plan
from services.config import AuditKind, NotifyConfig, RolloutConfig, ServingConfig
from services.contract import read_traffic

if TYPE_CHECKING:
    from cluster.demand import Demand
    from cluster.kuberay.settings import Workload
    from cluster.topology import Topology
    from services.rollout.status import RolloutStatus

app = typer.Typer(help=__doc__, add_completion=False, rich_markup_mode=None)
canary = typer.Typer(help="Let a candidate into production step by step.")
app.add_typer(canary, name="canary")
gate = typer.Typer(help="The verdict on a model that was made.")
app.add_typer(gate, name="gate")
keys = typer.Typer(help="Who may ask the gateway, and how much.")
app.add_typer(keys, name="keys")
machines = typer.Typer(help="The cluster's declaration.")
app.add_typer(machines, name="cluster")
data = typer.Typer(
    help="The record of every document: where it came from, what became of it, which models have seen it."
)
app.add_typer(data, name="data")
k8s = typer.Typer(help="The same cluster on Kubernetes.")
app.add_typer(k8s, name="k8s")
app.add_typer(job_commands.app, name="jobs")

LOOKS_EVERY_S = 10.0
"""`canary watch` prints every decision, and of the looks that decided nothing one now and then."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

out = Console(highlight=False, soft_wrap=True)
app.add_typer(train_plan.train_commands(lambda path: load_yaml(path, Recipe), out), name="train")


class Recipe(LifecycleConfig):
    """A whole lifecycle: how a model is made (pipelines) and how it is run (services)."""

    serve: ServingConfig = ServingConfig()
    rollout: RolloutConfig = RolloutConfig()
    notify: NotifyConfig = NotifyConfig()

    @model_validator(mode="after")
    def _copies_to_judge_by(self) -> Recipe:
        if self.rollout.begins_with_copies and not 0 < self.serve.shadow.percent < 100:
            found = f"serve.shadow.percent is {self.serve.shadow.percent:g}"
            raise ValueError(
                f"rollout.steps begins at 0 %, by copies compared with requests that are not copied, and {found}: "
                "set it to a share between 0 and 100"
            )
        return self


RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="YAML file of the lifecycle")]
RecipeOption = Annotated[
    Path | None, typer.Option("--recipe", metavar="RECIPE", help="default: the recipe of the last `serinus deploy`")
]


# --- the cluster ------------------------------------------------------------------------------------------------------


@app.command()
def up(topology: Annotated[Path | None, typer.Option(help="the cluster's declaration")] = None) -> None:
    """Bring up the cluster of ray_cluster.yaml on this machine: a head and a node for each pool."""
    from cluster import local
    from cluster.topology import load_topology
    from pipelines.progress import say

    cluster = local.up(load_topology(topology), progress=lambda message: say("up", message))
    out.print(f"up at {cluster.address}. Next: serinus status, serinus run RECIPE, serinus down")


@app.command()
def down() -> None:
    """Stop what `serinus up` started, and nothing else."""
    from cluster import local
    from pipelines.progress import say

    out.print("down" if local.down(progress=lambda message: say("down", message)) else "nothing was up")


@app.command()
def status() -> None:
    """Nodes, pools and applications of the cluster that `serinus up` started."""
    from cluster import local

    found = local.describe()
    if found is None:
        raise ClusterError("cluster", "none is up on this machine", "start one: serinus up")
    out.print(f"cluster {found.address}, up since {found.started_at:%Y-%m-%d %H:%M}, dashboard {found.dashboard}")
    nodes = Table("pool", "node", "state", "CPUs", "GPUs", box=None, header_style="bold")
    for node in found.nodes:
        state = "alive" if node.alive else "dead"
        nodes.add_row(node.pool, node.host, state, f"{node.num_cpus:g}", f"{node.num_gpus:g}")
    applications = Table("application", "status", "replicas", "message", box=None, header_style="bold")
    for application in found.applications:
        applications.add_row(
            application.name, application.status, str(application.num_replicas), application.message.split("\n")[0]
        )
    out.print(nodes, applications if found.applications else "no applications")


@app.command()
def doctor(
    recipe: Annotated[Path | None, typer.Argument(metavar="[RECIPE]", help="also its storage, keys and port")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False,
) -> None:
    """Check this machine, the environment, the cluster, storage, keys and Kubernetes, and say what to do. Exit code 0 or 2."""
    from cluster.doctor import commands, examine

    loaded = load_yaml(recipe, Recipe) if recipe else None
    serve = loaded.serve if loaded else ServingConfig()
    keys = [Path(serve.admission.keys)] if serve.admission.keys else []
    found = examine.examine(examine.groups(loaded.storage if loaded else None, keys, serve.port))
    commands.show(found, as_json=as_json)
    raise typer.Exit(2 if any(finding.state == "failed" for finding in found) else 0)


TopologyOption = Annotated[
    Path | None, typer.Option("--topology", help="the cluster's declaration; default: ray_cluster.yaml")
]


@machines.command("check")
def check_cluster(
    recipe: Annotated[Path | None, typer.Argument(metavar="[RECIPE]", help="YAML file of the lifecycle")] = None,
    topology: TopologyOption = None,
) -> None:
    """Say what `ray up` would refuse, and what of the recipe the cluster could never run. Exit code 1 when there is any."""
    from cluster.demand import findings
    from cluster.launcher import check_launcher
    from cluster.topology import load_topology, topology_file

    file = topology_file(topology)
    found_topology = load_topology(file)
    check_launcher(file)
    if recipe is None:
        out.print(f"{file}: good")
        return
    loaded = load_yaml(recipe, Recipe)
    asked, size = _demands(loaded)
    found = findings(found_topology, asked)
    for where, what, remedy in found:
        out.print(f"{where}: {what}\n  -> {remedy}", markup=False)
    known = f"{size / 1e9:.2f} B parameters" if size else "its size is not known here, so memory was not checked"
    out.print(f"{recipe} on {file}: {len(found) or 'no'} likely mistake(s); model {loaded.model.source}: {known}")
    raise typer.Exit(1 if found else 0)


@machines.command("flags")
def start_flags(topology: Path) -> None:
    """The options of `ray start` that put this machine into its pool, where TOPOLOGY names machines."""
    import shlex
    import socket

    import psutil

    from cluster.topology import load_topology, pool_of
    from cluster.topology import start_flags as flags

    kinds = (socket.AF_INET, socket.AF_INET6)
    addresses = {a.address for all_of in psutil.net_if_addrs().values() for a in all_of if a.family in kinds}
    pool = pool_of(load_topology(topology), addresses)
    if pool is None:
        raise ConfigError(
            f"{topology}: provider.pools", "no pool has this machine", f"add {', '.join(sorted(addresses))}"
        )
    print(shlex.join(flags(pool)))


def _demands(loaded: Recipe) -> tuple[list[Demand], int | None]:
    """What the recipe asks of the cluster, and how many parameters its model has where that is known."""
    from pipelines import demand as lifecycle
    from pipelines.model_size import num_parameters
    from services import demand as serving

    size = num_parameters(loaded.model.source)
    heaviest = max(plan.bytes_per_weight for plan in loaded.quantize.plans)
    return [*lifecycle.demands(loaded, size), *serving.demands(loaded.serve, size, heaviest)], size


@k8s.command("render")
def render_k8s(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="[RECIPE]", help="also its jobs and its place in the cluster")
    ] = None,
    folder: Annotated[Path, typer.Option("--out", help="folder to write to")] = Path("k8s"),
    overlay: Annotated[list[str] | None, typer.Option(help="dev, gpu, production; default: all")] = None,
    image: Annotated[str | None, typer.Option(help="registry/name:tag in place of the overlay's")] = None,
    topology: TopologyOption = None,
    *,
    egress: Annotated[
        list[str] | None,
        typer.Option(help="let pods reach ADDRESS:PORT, NAMESPACE:PORT or a cloud's workload identity"),
    ] = None,
) -> None:
    """Write the Kubernetes documents of the cluster and, with RECIPE, its jobs: a base and overlays for `kubectl apply -k`."""
    from cluster.kuberay import render
    from cluster.kuberay.settings import OVERLAYS
    from cluster.topology import load_topology

    loaded = load_topology(topology)
    files: dict[str, str] = {}
    for name in overlay or OVERLAYS:
        files |= render.render(loaded, name, _workload(recipe, name, loaded), image=image, egress=egress or ())
    render.write(files, folder)
    out.print(
        f"{len(files)} files in {folder}. Next: kubectl apply -k {folder}/overlays/{(overlay or list(OVERLAYS))[0]}"
    )


def _workload(path: Path | None, overlay: str, topology: Topology) -> Workload | None:
    if path is None:
        return None
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
        prepare=f"python {PROJECT_FOLDER / script.relative_to(root)}" if known else None,
        nodes={**pods_of_stages(topology, settings, demands(loaded), str(path)), "publish": {}},
    )


# --- making models ----------------------------------------------------------------------------------------------------


@app.command()
def check(recipe: RecipePath) -> None:
    """Read a recipe and say what is wrong with it, in under a second."""
    found = load_yaml(recipe, Recipe)
    out.print(f"{recipe}: good. {len(found.data.sources)} source(s), {found.train.num_steps} steps, "
              f"{len(found.evaluate.tasks)} task(s), {len(found.rollout.steps)} rollout step(s) for {found.name}")  # fmt: skip
    if doubt := train_plan.warning(found):
        out.print(f"but: {doubt}", markup=False)


@app.command()
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

    storage = open_storage(loaded.storage)
    began = time.monotonic()
    before = registry.aliases(storage, loaded.name).get("candidate")
    with exclusive(storage, f"run-{loaded.name}"), session.joined() as where:
        say("run", f"{loaded.name} on {where} cluster, artifacts in {storage.uri}")
        made = lifecycle.run(loaded, storage, until=until or "publish", remake_from=remake_from)
    _print_made(made, storage)
    if (candidate := registry.aliases(storage, loaded.name).get("candidate")) not in (None, before):
        _let_wait(loaded, storage, str(candidate))
    out.print(f"took {time.monotonic() - began:.0f} s")


@gate.command("explain")
def gate_explain(
    report: Annotated[
        str | None, typer.Argument(help="a gate's key, digest or manifest.json; default: the last")
    ] = None,
    recipe: RecipeOption = None,
) -> None:
    """Say in words what a gate compared, what it found, and what more items would settle."""
    from pipelines.evaluation import explain, verdict
    from pipelines.quantization.search import lines
    from pipelines.search import find_search

    if report is not None and report.endswith(".json"):
        found, storage = verdict.read_report(report), verdict.storage_of(report)
    else:
        storage = open_storage(_recipe(recipe).storage)
        found = verdict.find_report(storage, report)
    searched = find_search(storage, found) if storage else None
    for line in [*explain.lines(found), *(["", *lines(searched)] if searched else [])]:
        out.print(line, markup=False)


# --- what is on record of the data ------------------------------------------------------------------------------------

JsonOption = Annotated[bool, typer.Option("--json", help="for machines")]
VersionOption = Annotated[str | None, typer.Option(help="key or digest of a version, or the beginning of one")]
VersionArgument = Annotated[
    str | None, typer.Argument(help="key or digest, or the beginning of one; default: the newest")
]


@data.command("log")
def data_log(
    recipe: RecipeOption = None,
    last: Annotated[int | None, typer.Option(min=1, help="only so many versions")] = None,
    as_json: JsonOption = False,
) -> None:
    """The versions of the dataset, newest first, each with what it changed."""
    from pipelines.data import history, tell

    found = history.versions(_storage(recipe))
    if as_json:
        newest = found.found[::-1][:last]
        print(json.dumps([{"digest": made.digest, **made.model_dump(mode="json")} for made in newest], indent=1))
        return
    _say(tell.log_lines(found, last) if any(found) else ["no dataset yet: serinus run RECIPE"])


@data.command("show")
def data_show(version: VersionArgument = None, recipe: RecipeOption = None, as_json: JsonOption = False) -> None:
    """One version's figures, and what was made of it."""
    from cluster.descent import descent
    from pipelines.data import history, record, tell

    storage = _storage(recipe)
    found = history.version(storage, version)
    made = descent(storage, found.location)
    if as_json:
        both = {"digest": found.digest, **found.model_dump(mode="json"), "made_of_it": made.model_dump(mode="json")}
        print(json.dumps(both, indent=1))
        return
    _say(tell.show_lines(found, made, recorded=record.is_recorded(storage, found)))


@data.command("diff")
def data_diff(
    old: Annotated[str | None, typer.Argument(help="default: the one before the newest")] = None,
    new: VersionArgument = None,
    recipe: RecipeOption = None,
    examples: Annotated[int, typer.Option(min=0, help="documents to name for each kind of change")] = 10,
    as_json: JsonOption = False,
) -> None:
    """What changed from one version to another: rules, input, and what became of which documents, and why."""
    from pipelines.data import history, tell

    storage = _storage(recipe)
    before, after = history.version(storage, old, back=1), history.version(storage, new)
    found = history.difference(storage, before, after, examples)
    if as_json:
        print(found.model_dump_json(indent=1))
        return
    _say(tell.diff_lines(found))


@data.command("report")
def data_report(
    version: VersionArgument = None,
    recipe: RecipeOption = None,
    folder: Annotated[Path, typer.Option("--out", help="folder to write to")] = Path(),
) -> None:
    """Write how clean, comprehensive and consistent a version is, as an HTML page and as JSON. Exit code 1 when a check fails."""
    from pipelines.data import history
    from pipelines.data.report import report
    from pipelines.data.report_page import write

    storage = _storage(recipe)
    found = report(storage, history.version(storage, version))
    _say(str(path) for path in write(found, folder))
    failed = [check.what for check in found.checks if check.ok is False]
    _say(f"does not hold: {what}" for what in failed)
    raise typer.Exit(1 if failed else 0)


@data.command("trace")
def data_trace(
    document: Annotated[str, typer.Argument(metavar="ID", help="id of a document, or the beginning of one")],
    version: VersionOption = None,
    recipe: RecipeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Where a document came from, what became of it in each version, and which models have seen it."""
    from pipelines.data import history, tell
    from pipelines.data.trace import trace

    storage = _storage(recipe)
    found = trace(storage, document, history.version(storage, version) if version else None)
    if as_json:
        print(found.model_dump_json(indent=1))
        return
    _say(tell.trace_lines(found))


@data.command("forget")
def data_forget(
    document: Annotated[str, typer.Argument(metavar="ID", help="whole id of a document")],
    version: VersionOption = None,
    recipe: RecipeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a version without a document, keep it out of those to come, and name the models to retrain."""
    from datetime import UTC, datetime

    from pipelines.data import history, tell
    from pipelines.data.forget import forget

    storage = _storage(recipe)
    chosen = history.version(storage, version) if version else None
    done = forget(storage, document, chosen, config.user_name(), datetime.now(UTC))
    if as_json:
        print(done.model_dump_json(indent=1))
        return
    _say(tell.forget_lines(done))


data_plan.register(data, lambda recipe: load_yaml(recipe, Recipe), out.print)


def _storage(recipe: Path | None) -> Storage:
    return open_storage(_recipe(recipe).storage)


def _say(lines: Iterable[str]) -> None:
    """What documents bring along (ids, field names) must not move a terminal's cursor."""
    for line in lines:
        print("".join(character if character.isprintable() else "\ufffd" for character in line))


@app.command()
def publish_adapter(
    folder: Annotated[Path, typer.Argument(help="PEFT folder: adapter_config.json and adapter_model.safetensors")],
    base: Annotated[str, typer.Option(help="revision or alias whose weights it was trained on")] = "stable",
    recipe: RecipeOption = None,
) -> None:
    """Publish a LoRA adapter as the candidate: a canary that needs no engine of its own."""
    from pipelines import adapter, publish

    loaded = _recipe(recipe)
    storage = open_storage(loaded.storage)
    on = registry.resolve(storage, loaded.name, base)
    if on.base:  # an adapter itself: what it runs on
        on = registry.resolve(storage, loaded.name, on.base)
    made = adapter.import_adapter(folder, on, storage)
    revision = publish.publish_adapter(on, made, storage)
    out.print(f"{revision.revision}: {made.summary}, on {on.revision}. Next: serinus canary start")


@app.command()
def submit(
    recipe: RecipePath,
    follow: Annotated[bool, typer.Option(help="show the job's log until it ends")] = True,
    working_dir: Annotated[
        Path | None,
        typer.Option(
            help="ship this folder, in which RECIPE is, and run it there; .gitignore and .serinusignore leave out"
        ),
    ] = None,
) -> None:
    """Run a recipe as a Ray job on the cluster, and follow its log."""
    from cluster import jobs
    from cluster.dispatch import dispatched

    loaded = load_yaml(recipe, Recipe)
    with dispatched(recipe, loaded.model_dump(mode="json", exclude_unset=True), working_dir) as (folder, file):
        job = jobs.submit([jobs.python(), "-m", "serinus", "run", file], working_dir=folder)
    out.print(f"submitted {job}")
    if follow:
        raise typer.Exit(job_commands.followed(job))


@app.command()
def lineage(
    revision: Annotated[str, typer.Argument(help="revision, alias (stable, candidate) or digest")],
    recipe: RecipeOption = None,
) -> None:
    """What a revision was made of, down to the hashes of the input files."""
    loaded = _recipe(recipe)
    storage = open_storage(loaded.storage)
    _print_tree(registry.lineage(storage, loaded.name, revision))


# --- running models ---------------------------------------------------------------------------------------------------


@app.command()
def deploy(recipe: RecipePath) -> None:
    """Put the stable revision behind the gateway; the first one is the base model, quantized."""
    loaded = load_yaml(recipe, Recipe)
    with _in_public_cluster():
        from pipelines import lifecycle
        from pipelines.progress import say
        from services.rollout import controller, courier
        from services.serving import app as serving

        storage = open_storage(loaded.storage)
        if "stable" not in registry.aliases(storage, loaded.name):
            lifecycle.baseline(loaded, storage)
        stable = registry.resolve(storage, loaded.name, "stable")
        say("deploy", f"starting {stable.revision} and the gateway")
        with _key_changes(storage, loaded.name):
            serving.deploy(loaded.name, stable, loaded.serve, storage)
        controller.ensure_traffic(storage, loaded.name, stable.revision)
        courier.publish_receivers(storage, loaded.name, loaded.notify)
        _ensure_controller(loaded.name, storage)
        controller.ensure_probes(storage, loaded.name)
        serving.wait_gateway(loaded.name, loaded.serve, storage.uri)
        message = f"gateway and stable revision {stable.revision}, by {recipe.name}"
        _note(storage, loaded.name, "deployed", message, stable=stable.revision)
    _remember(recipe)
    out.print(f"{loaded.name} answers at {serving.gateway_url(loaded.serve)}")


@canary.command()
def start(
    revision: Annotated[str, typer.Option(help="revision or alias to let in")] = "candidate",
    recipe: RecipeOption = None,
) -> None:
    """Load a revision beside stable and begin its rollout with the recipe's first step."""
    loaded = _recipe(recipe)
    storage = open_storage(loaded.storage)
    candidate = registry.resolve(storage, loaded.name, revision)
    registry.check_engine(storage, candidate)
    if (done := _queue_up(loaded, storage, candidate.revision)) is not None:
        with _in_public_cluster():
            _ensure_controller(loaded.name, storage).wake.remote()
        out.print(f"{done}. It is loaded when its turn comes. See: serinus canary status")
        return
    with _in_public_cluster():
        from pipelines.progress import say
        from services.rollout import controller, courier
        from services.serving import app as serving

        controller.check_engines(storage, loaded.name, candidate.revision)
        say("canary", f"loading {candidate.revision}")
        serving.deploy_revision(candidate, loaded.serve, storage)
        courier.publish_receivers(storage, loaded.name, loaded.notify)
        _ensure_controller(loaded.name, storage)
        keep, who = loaded.serve.keep_revisions, config.user_name()
        rollout = controller.start_rollout(
            storage, loaded.name, candidate.revision, loaded.rollout, keep_revisions=keep, who=who
        )
    out.print(f"rollout {rollout} of {candidate.revision} began. Follow it: serinus canary watch")


@contextmanager
def _in_public_cluster() -> Iterator[None]:
    """Join the cluster that users reach; a private one would vanish with this command."""
    from cluster import session

    if session.public_address() is None:
        raise ClusterError(
            "cluster", "none is up that could serve", "start one: serinus up; then serinus deploy RECIPE"
        )
    with session.joined():
        yield


def _ensure_controller(name: str, storage: Storage) -> Any:
    """The controller, which loads a waiting candidate by itself."""
    from services.rollout import controller
    from services.rollout.applications import RayApplications
    from services.serving.load import load_in_task

    return controller.ensure_controller(name, storage.uri, RayApplications(name, storage.uri, load_in_task))


def _queue_up(loaded: Recipe, storage: Storage, candidate: str) -> str | None:
    """Do what the recipe says for a candidate that finds a rollout under way, before minutes of loading it; None: nothing is."""
    from datetime import UTC, datetime

    from services.rollout import probes
    from services.rollout.waiting import Waiting, queue_up

    for chosen in loaded.rollout.probes.sets:
        probes.read_set(chosen)
    traffic = read_traffic(storage, loaded.name)
    if traffic is None:
        raise InputError(f"model {loaded.name}", "nothing is deployed", "deploy it first: serinus deploy RECIPE")
    if traffic[0].stable == candidate:
        raise InputError(f"revision {candidate}", "is stable already", "publish another one: serinus run RECIPE")
    keep, who = loaded.serve.keep_revisions, config.user_name()
    items = probes.publish(storage, loaded.name, loaded.rollout.probes)
    asked = Waiting(revision=candidate, config=loaded.rollout, serving=loaded.serve, keep_revisions=keep, who=who,
                    probe_items=items, at=datetime.now(UTC))  # fmt: skip
    return queue_up(storage, loaded.name, asked)


def _let_wait(loaded: Recipe, storage: Storage, candidate: str) -> None:
    """What `run` published during a rollout waits for its turn where the recipe says so; the controller finds it in storage."""
    if loaded.rollout.when_busy == "refuse" or read_traffic(storage, loaded.name) is None:
        return
    if (done := _queue_up(loaded, storage, candidate)) is not None:
        out.print(f"{done} (rollout.when_busy: {loaded.rollout.when_busy})")


@canary.command()
def withdraw(recipe: RecipeOption = None) -> None:
    """Take the candidate that waits for its turn out of its place."""
    from datetime import UTC, datetime

    from services.rollout import waiting

    loaded = _recipe(recipe)
    who = config.user_name()
    out.print(waiting.withdraw(open_storage(loaded.storage), loaded.name, who, datetime.now(UTC)))


@canary.command("status")
def canary_status(recipe: RecipeOption = None, as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """The rollout as it stands, with every decision; probes and feedback per revision; the watch over decay."""
    from services.rollout.summary import lines, summary

    loaded = _recipe(recipe)
    storage = open_storage(loaded.storage)
    found = _rollout(storage, loaded.name)
    quality = summary(storage, found)
    if as_json:
        print(json.dumps({**found.model_dump(mode="json"), **quality.model_dump(mode="json")}, indent=1))
        return
    from services.rollout import display

    _print_traffic(storage, loaded.name)
    for line in display.rollout(found):
        out.print(line)
    _print_waiting(storage, found)
    for line in lines(quality):
        out.print(line, markup=False)


@canary.command()
def watch(recipe: RecipeOption = None) -> None:
    """Print each decision as it is made, until the rollout ends. Exit code 1 when it was rolled back."""
    from services.rollout import replay
    from services.rollout.display import decision_line

    loaded = _recipe(recipe)
    storage = open_storage(loaded.storage)
    shown, looked_at = 0, 0.0
    followed = _rollout(storage, loaded.name).id  # a candidate that waits may begin the moment this one has ended
    while True:
        found = replay.read_rollout(storage, loaded.name, followed)
        for decision in found.decisions[shown:]:
            out.print(decision_line(decision))
        shown = len(found.decisions)
        if found.last_look and not found.ended and time.monotonic() - looked_at >= LOOKS_EVERY_S:
            looked_at = time.monotonic()
            out.print(f"[dim]{decision_line(found.last_look)}[/]")
        if found.ended:
            out.print(f"{found.candidate}: {found.phase}")
            raise typer.Exit(0 if found.phase == "promoted" else 1)
        time.sleep(0.5)


@canary.command("set")
def set_weight(weight_percent: float, recipe: RecipeOption = None) -> None:
    """Hold the canary at WEIGHT_PERCENT of the users until told otherwise."""
    _act("set_weight", recipe, weight_percent)


@canary.command()
def promote(recipe: RecipeOption = None) -> None:
    """Make the canary stable now, without waiting for evidence."""
    _act("promote", recipe)


@canary.command()
def rollback(recipe: RecipeOption = None) -> None:
    """Take the canary out now; during no rollout, go back to the previous stable revision."""
    _act("abort", recipe)


def _act(verb: str, recipe: Path | None, *arguments: Any) -> None:
    loaded = _recipe(recipe)
    storage = open_storage(loaded.storage)
    with _in_public_cluster():
        from services.rollout import controller

        getattr(controller, verb)(storage, loaded.name, *arguments, who=config.user_name())
    _print_traffic(storage, loaded.name)


@canary.command("plan")
def canary_plan(
    recipe: RecipePath,
    rate: Annotated[str, typer.Option(help="expected requests to the model, as 50/s, 300/min or 2000/h")],
    stable_error_percent: Annotated[float, typer.Option(help="stable's share of harmful answers")] = 0.5,
) -> None:
    """How long each step would take and what it would find, before anything starts."""
    from services.rollout import display
    from services.rollout.plan import per_second, plan

    loaded = load_yaml(recipe, Recipe)
    if not 0 <= stable_error_percent < 100:
        raise ConfigError("--stable-error-percent", f"{stable_error_percent:g}", "give a share from 0 to below 100")
    steps = plan(loaded.rollout, per_second(rate), max(stable_error_percent / 100, 1e-6), loaded.serve.shadow.percent)
    for part in display.plan(loaded.rollout, steps):
        out.print(part)


@canary.command()
def replay(
    rollout: Annotated[str | None, typer.Argument(help="rollout's id; default: the current or last one")] = None,
    recipe: RecipeOption = None,
) -> None:
    """Decide a rollout once more from its stored evidence. Exit code 1 when a decision comes out differently."""
    from services.rollout import display
    from services.rollout import replay as again

    loaded = _recipe(recipe)
    storage = open_storage(loaded.storage)
    status = again.read_rollout(storage, loaded.name, rollout)
    out.print(f"rollout {status.id}: {status.candidate} against {status.stable}, {status.phase}")
    same = True
    for found in again.replay(storage, status):
        same &= found.same
        for line in display.replayed(found):
            out.print(line)
    same &= _replay_decay(storage, status)
    out.print("every decision comes out the same" if same else "the stored evidence leads to other decisions")
    raise typer.Exit(0 if same else 1)


@canary.command()
def history(
    recipe: RecipeOption = None,
    last: Annotated[int | None, typer.Option(min=1, help="only so many entries")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="an entry a line")] = False,
) -> None:
    """Who did what, when and why: deployments, keys, every decision by a person or by the analysis, and what changed outside
    rollouts. Exit code 1 when an entry was changed or taken out."""
    from services.rollout.scribe import history as told

    loaded = _recipe(recipe)
    storage = open_storage(loaded.storage)
    found = told(storage, loaded.name, last)
    for number, line in found.lines:
        if as_json:
            print(json.dumps({"number": number, **line.model_dump(mode="json")}, ensure_ascii=False))
        else:
            place = f"{number:>6}" if number else "     -"  # not on record yet: the controller is away
            out.print(
                f"{place}  {line.at:%Y-%m-%d %H:%M:%S}  {line.kind:<13}{printable(f'{line.who:<12} {line.message}')}",
                markup=False,
            )
    for problem in found.broken:
        print(f"the record is not whole: {problem}", file=sys.stderr)
    raise typer.Exit(1 if found.broken else 0)


def _replay_decay(storage: Storage, status: RolloutStatus) -> bool:
    """What the watch over the promoted model decided, once more from its stored answers."""
    from services.rollout import display
    from services.rollout.decay_watch import judged_again, read_watch

    found = read_watch(storage, status.name)
    if found is None or found[0].id != status.id or found[0].decision is None:
        return True
    again = judged_again(storage, found[0])
    same = again == found[0].last
    out.print(f"round {found[0].round:>5}  {'same' if same else 'OTHER':<14}{display.decision_line(found[0].decision)}")
    if not same and again:
        out.print(f"{'':<13}now           {again.told(found[0].probes.decay)}")
    return same


# --- API keys ---------------------------------------------------------------------------------------------------------


@keys.command("add")
def add_key(
    name: Annotated[str, typer.Argument(help="whose key it is, for logs and metrics")],
    right: Annotated[list[str] | None, typer.Option(help="canary, stable: may ask for that role by header")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1)] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(min=1, help="prompt and answer together")] = None,
    recipe: RecipeOption = None,
) -> None:
    """Make an API key and print it, once: only its hash is kept, in the file of serve.admission.keys."""
    from services.serving import keys as api_keys

    loaded = _recipe(recipe)
    limits = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute}
    token = api_keys.add_key(_keys_file(loaded), name, rights=tuple(right or ()), **limits)
    print(token)
    _apply_keys(loaded)


@keys.command("apply")
def apply_keys(recipe: RecipeOption = None) -> None:
    """Put the file of keys in force as it is now, on all gateways within seconds, without a restart."""
    _apply_keys(_recipe(recipe))


def _apply_keys(loaded: Recipe) -> None:
    from services.serving import keys as api_keys

    storage = open_storage(loaded.storage)
    with _key_changes(storage, loaded.name):
        found = api_keys.publish_keys(storage, loaded.name, _keys_file(loaded))
    print(
        f"{len(found.keys)} key(s) published for {loaded.name}: a gateway with `admission.keys` follows",
        file=sys.stderr,
    )


def _keys_file(loaded: Recipe) -> Path:
    if loaded.serve.admission.keys is None:
        remedy = "name a file: `serve: {admission: {keys: keys.yaml}}`; then serinus deploy RECIPE"
        raise ConfigError("serve.admission.keys", "not set: the gateway asks for no key", remedy)
    return Path(loaded.serve.admission.keys)


# --- printing ---------------------------------------------------------------------------------------------------------


def _print_made(made: Mapping[str, artifacts.Manifest], storage: Storage) -> None:
    out.print(f"made in {storage.uri}")
    for role, manifest in made.items():
        out.print(f"  {role:<17}{manifest.summary}\n  {'':<17}[dim]{manifest.location}/manifest.json[/]")


def _print_tree(node: registry.Lineage, depth: int = 0) -> None:
    name = f"{node.key}  " if node.kind == "source" else ""
    out.print(f"{'  ' * depth}{node.kind} {node.digest[:12]}  {name}{node.summary}", markup=False)
    for child in node.children:
        _print_tree(child, depth + 1)


def _print_traffic(storage: Storage, name: str) -> None:
    found = read_traffic(storage, name)
    if found is None:
        raise InputError(f"model {name}", "nothing is deployed", "deploy it first: serinus deploy RECIPE")
    traffic = found[0]
    out.print(f"stable {traffic.stable}, canary {traffic.canary or 'none'} with {traffic.weight_percent:g} % of users")


def _print_waiting(storage: Storage, last: RolloutStatus) -> None:
    from services.rollout.waiting import read_waiting

    try:
        waiting, _ = read_waiting(storage, last.name)
    except InputError as error:
        out.print(f"waiting: {error}", markup=False)
        return
    if waiting is not None and not waiting.began(last):
        out.print(f"waiting: {waiting.revision}, asked for by {waiting.who} at {waiting.at:%Y-%m-%d %H:%M:%S}")


# --- what is recorded -------------------------------------------------------------------------------------------------


def _note(storage: Storage, name: str, kind: AuditKind, message: str, **about: str) -> None:
    """In the audit record; rollouts' decisions and moves of aliases get there by the controller."""
    from datetime import UTC, datetime

    from services import audit

    audit.note(storage, name, kind, message, who=config.user_name(), at=datetime.now(UTC), **about)


@contextmanager
def _key_changes(storage: Storage, name: str) -> Iterator[None]:
    """Whatever the block does to the keys in force is on record afterwards."""
    from services.serving import keys as api_keys

    before, _ = api_keys.read_keys(storage, name)
    yield
    if done := api_keys.changes(before, api_keys.read_keys(storage, name)[0]):
        _note(storage, name, "keys", done)


# --- what is remembered -----------------------------------------------------------------------------------------------


def _remember(recipe: Path) -> None:
    path = config.home() / "deployed.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"recipe": str(recipe.resolve())}))


def _recipe(given: Path | None) -> Recipe:
    if given is None:
        try:
            given = Path(json.loads((config.home() / "deployed.json").read_text())["recipe"])
        except FileNotFoundError:
            raise ConfigError("--recipe", "no recipe given and none deployed yet", "add --recipe RECIPE") from None
    return load_yaml(given, Recipe)


report_command.add_to(app, _recipe)


def _rollout(storage: Storage, name: str) -> RolloutStatus:
    from services.rollout import controller

    found = controller.status(storage, name)
    if found is None:
        raise InputError(f"model {name}", "no rollout was ever started", "begin one: serinus canary start")
    return found


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
