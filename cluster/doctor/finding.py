"""What a check says."""

from __future__ import annotations

from typing import Literal

from cluster.config import StrictModel

State = Literal["ok", "warning", "failed"]


class Finding(StrictModel):
    """One line of the doctor's report."""

    check: str
    state: State
    """`failed`: something will not work. `warning`: it may not, or not well."""
    found: str
    remedy: str = ""
    """What to do, in the imperative; empty where nothing is to be done."""


def judged(check: str, found: str, remedy: str, *, failed: bool = False, warning: bool = False) -> Finding:
    """A finding whose remedy is said only where something is wrong."""
    state: State = "failed" if failed else "warning" if warning else "ok"
    return Finding(check=check, state=state, found=found, remedy=remedy if state != "ok" else "")
