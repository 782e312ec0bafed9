"""Files that hold secrets or hashes of them: theirs to read alone."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from cluster.auth_token import token_file
from cluster.doctor.finding import Finding, judged


def private(check: str, file: Path) -> Finding:
    """Whether nobody else may read the file, or put another in its place."""
    try:
        found, folder = file.stat(), file.parent.stat()
    except OSError as error:
        return judged(check, f"{file}: {error.strerror}", "make it, or name another", warning=True)
    if found.st_uid not in (os.getuid(), 0):
        return judged(
            check, f"{file} belongs to another user", f"chown it, or write a new one in place of {file}", failed=True
        )
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        return judged(check, f"others may read or write {file} ({mode:o})", f"chmod 600 {file}", failed=True)
    loose = folder.st_mode & 0o022 and not folder.st_mode & stat.S_ISVTX
    return judged(check, str(file), f"others may write to its folder: chmod go-w {file.parent}", warning=bool(loose))


def checks(keys: Iterable[Path]) -> list[Finding]:
    """The cluster's token, and the files a recipe names. A token that is not there is made by `serinus up`."""
    token = token_file()
    return [
        *([private("token file", token)] if token.exists() else []),
        *(private("keys file", file) for file in keys),
    ]
