"""One line of what is going on, for whoever waits."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from cluster import telemetry
from cluster.config import logs_json

console = Console(stderr=True, highlight=False)


def say(stage: str, message: str) -> None:
    """One line under the stage's name; where the log is JSON, a record of it."""
    if logs_json():
        telemetry.configure()
        telemetry.logger(stage).info("%s", message)
        return
    console.print(f"[bold cyan]{stage:>9}[/]  {escape(message)}", soft_wrap=True)
