"""The terminal that commands print to. Apart from cluster/command_line.py: commands on the record answer without Rich, whose import
takes 0.03 s of their half second."""

from __future__ import annotations

from rich.console import Console

out = Console(highlight=False, soft_wrap=True)
