"""`serinus canary status`, `watch`, `plan`, `replay` and `history`: what a rollout did, does and would do. Read from storage."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cluster.command_line import RecipeOption, RecipePath
from cluster.errors import ConfigError, InputError
from cluster.storage import Storage, open_storage
from cluster.telemetry import printable
from services.commands.recipe import ReadServed
from services.commands.record import print_traffic, show_traffic
from services.commands.remote import ControlApi, ServerOption, control_api

if TYPE_CHECKING:
    from services.rollout.scribe import History
    from services.rollout.status import RolloutStatus

LOOKS_EVERY_S = 10.0
"""`canary watch` prints every decision, and of the looks that decided nothing one now and then."""


def register_now(app: typer.Typer, read_recipe: ReadServed, out: Console) -> None:
    """Put what tells of the rollout under way among the commands of `app`."""

    @app.command("status")
    def canary_status(
        recipe: RecipeOption = None,
        as_json: Annotated[bool, typer.Option("--json")] = False,
        server: ServerOption = None,
    ) -> None:
        """The rollout as it stands, with every decision; probes and feedback per revision; the watch over decay."""
        from services.rollout.summary import as_json as summarized

        if server is not None:
            _print_remote(control_api(server, recipe), as_json, out)
            return
        loaded = read_recipe(recipe)
        storage = open_storage(loaded.storage)
        found = _rollout(storage, loaded.name)
        if as_json:
            print(json.dumps(summarized(storage, found), indent=1))
            return
        _print_status(storage, found, out)

    @app.command()
    def watch(recipe: RecipeOption = None) -> None:
        """Print each decision as it is made, until the rollout ends. Exit code 1 when it was rolled back."""
        loaded = read_recipe(recipe)
        storage = open_storage(loaded.storage)
        ended = _follow(storage, _rollout(storage, loaded.name), out)
        out.print(f"{ended.candidate}: {ended.phase}")
        raise typer.Exit(0 if ended.phase == "promoted" else 1)


def register_offline(app: typer.Typer, read_recipe: ReadServed, out: Console) -> None:
    """Put what tells of rollouts before and after them among the commands of `app`."""

    @app.command("plan")
    def canary_plan(
        recipe: RecipePath,
        rate: Annotated[str, typer.Option(help="expected requests to the model, as 50/s, 300/min or 2000/h")],
        stable_error_percent: Annotated[float, typer.Option(help="stable's share of harmful answers")] = 0.5,
    ) -> None:
        """How long each step would take and what it would find, before anything starts."""
        from services.rollout import display
        from services.rollout.plan import per_second, plan

        loaded = read_recipe(recipe)
        if not 0 <= stable_error_percent < 100:
            raise ConfigError("--stable-error-percent", f"{stable_error_percent:g}", "give a share from 0 to below 100")
        error_rate = max(stable_error_percent / 100, 1e-6)
        steps = plan(loaded.rollout, per_second(rate), error_rate, loaded.serve.shadow.percent)
        for part in display.plan(loaded.rollout, steps):
            out.print(part)
        for doubt in loaded.rollout.caveats:
            out.print(f"but: {doubt}", markup=False)

    @app.command()
    def replay(
        rollout: Annotated[str | None, typer.Argument(help="rollout's id; default: the current or last one")] = None,
        recipe: RecipeOption = None,
    ) -> None:
        """Decide a rollout once more from its stored evidence. Exit code 1 when a decision comes out differently."""
        from services.rollout import replay as again

        loaded = read_recipe(recipe)
        storage = open_storage(loaded.storage)
        status = again.read_rollout(storage, loaded.name, rollout)
        out.print(f"rollout {status.id}: {status.candidate} against {status.stable}, {status.phase}")
        same = _replay_looks(storage, status, out)
        same &= _replay_decay(storage, status, out)
        out.print("every decision comes out the same" if same else "the stored evidence leads to other decisions")
        raise typer.Exit(0 if same else 1)

    @app.command()
    def history(
        recipe: RecipeOption = None,
        last: Annotated[int | None, typer.Option(min=1, help="only so many entries")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="an entry a line")] = False,
        server: ServerOption = None,
    ) -> None:
        """Who did what, when and why: deployments, keys, every decision by a person or by the analysis, and what changed outside
        rollouts. Exit code 1 when an entry was changed or taken out."""
        from services.rollout.scribe import history as told

        if server is not None:
            found = control_api(server, recipe).history(last)
        else:
            loaded = read_recipe(recipe)
            found = told(open_storage(loaded.storage), loaded.name, last)
        for line in _as_json(found) if as_json else _as_text(found):
            print(line)
        if not found.lines and not as_json:
            print("nothing is on record yet: serinus deploy RECIPE")
        for problem in found.broken:
            print(f"the record is not whole: {problem}", file=sys.stderr)
        raise typer.Exit(1 if found.broken else 0)


def _rollout(storage: Storage, name: str) -> RolloutStatus:
    from services.rollout import controller

    found = controller.status(storage, name)
    if found is None:
        raise InputError(f"model {name}", "no rollout was ever started", "begin one: serinus canary start")
    return found


def _print_status(storage: Storage, found: RolloutStatus, out: Console) -> None:
    from services.rollout import display
    from services.rollout.summary import lines, summary

    quality = summary(storage, found)
    print_traffic(storage, found.name, out)
    for line in display.rollout(found):
        out.print(line)
    _print_waiting(storage, found, out)
    for line in lines(quality):
        out.print(line, markup=False)


def _print_remote(api: ControlApi, as_json: bool, out: Console) -> None:
    from services.rollout import display
    from services.rollout.summary import lines

    if as_json:
        print(json.dumps(api.get("/rollouts/current"), indent=1))
        return
    found, quality = api.rollout()
    show_traffic(api.traffic(), out)
    for line in display.rollout(found):
        out.print(printable(line), markup=False)
    if (waiting := api.get("/waiting")["waiting"]) is not None:
        out.print(f"waiting: {waiting['revision']}, asked for by {waiting['who']}", markup=False)
    for line in lines(quality):
        out.print(line, markup=False)


def _print_waiting(storage: Storage, last: RolloutStatus, out: Console) -> None:
    from services.rollout.waiting import read_waiting

    try:
        waiting, _ = read_waiting(storage, last.name)
    except InputError as error:
        out.print(f"waiting: {error}", markup=False)
        return
    if waiting is not None and not waiting.began(last):
        asked = f"asked for by {waiting.who} at {waiting.at:%Y-%m-%d %H:%M:%S}"
        out.print(f"waiting: {waiting.revision}, {asked}", markup=False)


def _follow(storage: Storage, begun: RolloutStatus, out: Console) -> RolloutStatus:
    """The rollout when it has ended. By its id: a candidate that waits may begin the moment this one has ended."""
    from services.rollout import replay
    from services.rollout.display import decision_line

    shown, looked_at = 0, 0.0
    while True:
        found = replay.read_rollout(storage, begun.name, begun.id)
        for decision in found.decisions[shown:]:
            out.print(decision_line(decision))
        shown = len(found.decisions)
        if found.ended:
            return found
        if found.last_look and time.monotonic() - looked_at >= LOOKS_EVERY_S:
            looked_at = time.monotonic()
            out.print(f"[dim]{decision_line(found.last_look)}[/]")
        time.sleep(0.5)


def _replay_looks(storage: Storage, status: RolloutStatus, out: Console) -> bool:
    from services.rollout import display
    from services.rollout import replay as again

    same = True
    for found in again.replay(storage, status):
        same &= found.same
        for line in display.replayed(found):
            out.print(line)
    return same


def _replay_decay(storage: Storage, status: RolloutStatus, out: Console) -> bool:
    """What the watch over the promoted model decided, once more from its stored answers."""
    from services.rollout import display
    from services.rollout.decay_status import judged_again, read_watch

    found = read_watch(storage, status.name)
    if found is None or found[0].id != status.id or found[0].decision is None:
        return True
    again = judged_again(storage, found[0])
    same = again == found[0].last
    out.print(f"round {found[0].round:>5}  {'same' if same else 'OTHER':<14}{display.decision_line(found[0].decision)}")
    if not same and again:
        out.print(f"{'':<13}now           {again.told(found[0].probes.decay)}")
    return same


def _as_json(found: History) -> Iterator[str]:
    for number, line in found.lines:
        yield json.dumps({"number": number, **line.model_dump(mode="json")}, ensure_ascii=False)


def _as_text(found: History) -> Iterator[str]:
    for number, line in found.lines:
        place = f"{number:>6}" if number else "     -"  # not on record yet: the controller is away
        told = printable(f"{line.who:<12} {line.message}")
        yield f"{place}  {line.at:%Y-%m-%d %H:%M:%S}  {line.kind:<13}{told}"
