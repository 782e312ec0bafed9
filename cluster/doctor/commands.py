"""How the doctor's findings are printed."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console

from cluster.doctor.finding import Finding
from cluster.telemetry import printable

COLOURS = {"ok": "green", "warning": "yellow", "failed": "bold red"}


def show(found: Sequence[Finding], *, as_json: bool) -> None:
    """One line each, and a remedy below what is wrong."""
    if as_json:
        print(json.dumps([finding.model_dump() for finding in found], indent=1))
        return
    out = Console(highlight=False, soft_wrap=True, markup=False)
    for finding in found:
        out.print(f"{finding.state:<9}", style=COLOURS[finding.state], end="")
        out.print(f"{finding.check:<18}{printable(finding.found)}")
        if finding.remedy:
            out.print(f"{'':<9}-> {printable(finding.remedy)}")
    wrong = {state: sum(finding.state == state for finding in found) for state in ("failed", "warning")}
    out.print(f"{len(found)} checks: {wrong['failed']} failed, {wrong['warning']} warning(s)")
