"""Whether py-spy can be expected to read a process here; no tests in here."""

from __future__ import annotations

from pathlib import Path

SCOPE = Path("/proc/sys/kernel/yama/ptrace_scope")
CAP_SYS_PTRACE = 19


def may_trace() -> bool:
    """One that is no child of the reader's: Ubuntu lets nobody but root, and in a container often not root either."""
    if not SCOPE.exists() or SCOPE.read_text().strip() == "0":
        return True
    (effective,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> CAP_SYS_PTRACE & 1)
