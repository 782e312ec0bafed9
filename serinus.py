"""serinus, the command line: raw text to a language model in production on Ray, each new model let in like a canary."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cluster.command_line import made_when_asked
from cluster.errors import SerinusError

if TYPE_CHECKING:
    from rich.console import Console

    from serinus_recipe import Recipe

# pydantic looks for plugins, of which serinus has none, in all packages that are installed: 0.02 to 0.08 s of a command.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def _out() -> Console:
    from cluster.console import out

    return out


def _read(given: Path | None) -> Recipe:
    import serinus_recipe

    return serinus_recipe.read(given)


def _with(register: Callable[..., None], *given: object, purpose: str = "") -> typer.Typer:
    made = typer.Typer(help=purpose)
    register(made, *given)
    return made


# --- commands ---------------------------------------------------------------------------------------------------------


def _local() -> typer.Typer:
    from cluster import local_commands

    return _with(local_commands.register, _out())


def _doctor() -> typer.Typer:
    import serinus_recipe
    from cluster.doctor import commands

    return _with(commands.register, serinus_recipe.named)


def _of_recipes() -> typer.Typer:
    import serinus_commands

    return _with(serinus_commands.register)


def _publish_adapter() -> typer.Typer:
    from pipelines import adapter_command

    return _with(adapter_command.register, _out())


def _lineage() -> typer.Typer:
    from cluster import lineage_command

    return _with(lineage_command.register, _out())


def _report() -> typer.Typer:
    from pipelines.evaluation import report_command

    return _with(report_command.add_to, _read)


def _eval() -> typer.Typer:
    import serinus_recipe
    from pipelines.evaluation import eval_command

    return _with(eval_command.register, _out(), serinus_recipe.model_folder)


def _eval_compare() -> typer.Typer:
    from pipelines.evaluation import agreement_command

    return _with(agreement_command.register, _out())


# --- groups of commands -----------------------------------------------------------------------------------------------


def _canary() -> typer.Typer:
    from services.commands import canary, rollouts

    group = typer.Typer(help="Let a candidate into production step by step.")
    canary.register_start(group, _read, _out())
    rollouts.register_now(group, _read, _out())
    canary.register_acts(group, _read, _out())
    rollouts.register_offline(group, _read, _out())
    return group


def _gate() -> typer.Typer:
    from pipelines import gate_command

    return _with(gate_command.register, _out(), purpose="The verdict on a model that was made.")


def _keys() -> typer.Typer:
    from services.commands import keys

    return _with(keys.register, _read, purpose="Who may ask the gateway, and how much.")


def _cluster() -> typer.Typer:
    import serinus_recipe
    from cluster import check_commands, drain_commands

    group = typer.Typer(help="The cluster's declaration, and its machines that come and go.")
    check_commands.register(group, serinus_recipe.asked, _out())
    drain_commands.register(group)
    return group


def _data() -> typer.Typer:
    from pipelines.data import commands, openlineage_command, plan_command
    from pipelines.data.annotation import commands as annotation
    from pipelines.data.preferences import commands as preferences

    group = typer.Typer(
        help="The record of every document: where it came from, what became of it, which models have seen it."
    )
    commands.register(group, _read)
    plan_command.register(group, _read, lambda part: _out().print(part))
    openlineage_command.register(group, _read, commands.say)
    annotation.register(group, commands.say)
    preferences.register(group, _read, commands.say)
    return group


def _k8s() -> typer.Typer:
    import serinus_recipe
    from cluster.kuberay import commands

    return _with(commands.register, serinus_recipe.workload, _out(), purpose="The same cluster on Kubernetes.")


def _jobs() -> typer.Typer:
    from cluster import job_commands

    return job_commands.app


def _train() -> typer.Typer:
    from pipelines.training import plan_command

    return plan_command.train_commands(_read, _out())


def _canaries() -> typer.Typer:
    from pipelines.evaluation import canaries_command

    purpose = "Secrets planted in training data, to measure what a model gives away."
    return _with(canaries_command.register, _out(), purpose=purpose)


# In the order in which --help lists them.
COMMANDS = {
    "up": _local, "down": _local, "status": _local, "doctor": _doctor, "check": _of_recipes, "run": _of_recipes,
    "publish-adapter": _publish_adapter, "submit": _of_recipes, "lineage": _lineage, "deploy": _of_recipes,
    "report": _report, "card": _report, "eval": _eval, "eval-compare": _eval_compare,
}  # fmt: skip
GROUPS = {
    "canary": _canary, "gate": _gate, "keys": _keys, "cluster": _cluster, "data": _data, "k8s": _k8s, "jobs": _jobs,
    "train": _train, "canaries": _canaries,
}  # fmt: skip

app = typer.Typer(help=__doc__, add_completion=False, rich_markup_mode=None, cls=made_when_asked(COMMANDS, GROUPS))


@app.callback()
def _every() -> None:
    """Typer asks for this where no command is there yet."""


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 the answer is no, 2 something to mend, 3 broken off, 130 interrupted."""
    try:
        code = app(args=sys.argv[1:] or ["--help"], prog_name="serinus", standalone_mode=False)
        if code == INTERRUPTED:  # typer's answer to Ctrl-C
            raise KeyboardInterrupt
        sys.exit(code)
    except typer.TyperException as error:
        said = error.format_message().replace("Value error, ", "")
        print(f"error: {said}\n  -> see: serinus --help, serinus COMMAND --help", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        print("\ninterrupted. What was made is kept; the same command continues from there", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except SerinusError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
