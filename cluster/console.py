"""The terminal that commands print to. Apart from cluster/command_line.py: many commands answer without Rich, whose import takes
longer than most of them."""

from __future__ import annotations

from rich.console import Console

out = Console(highlight=False, soft_wrap=True)
