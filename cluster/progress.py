"""One line of what is going on, for whoever waits."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

console = Console(stderr=True, highlight=False)


def say(stage: str, message: str) -> None:
    """One line under the stage's name."""
    console.print(f"[bold cyan]{stage:>9}[/]  {escape(message)}", soft_wrap=True)
