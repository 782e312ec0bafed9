"""Which files lie below a path, and which of them its wildcards mean."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSystem

WILDCARD = re.compile(r"[*?\[]")


def fixed_part(path: str, filesystem: FileSystem) -> tuple[str, re.Pattern[str] | None]:
    """The folder before the first wildcard and what its files must match; the path itself where that exists."""
    from pyarrow.fs import FileType

    if not WILDCARD.search(path) or filesystem.get_file_info(path).type != FileType.NotFound:
        return path.rstrip("/") or "/", None
    parts = path.split("/")
    first = next(i for i, part in enumerate(parts) if WILDCARD.search(part))
    return "/".join(parts[:first]) or ".", _glob_expression("/".join(parts[first:]))


def _glob_expression(pattern: str) -> re.Pattern[str]:
    """`*` and `?` stay within a folder, `**/` stands for any number of folders, [abc] for one of the characters."""
    tokens = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]+\])", pattern)
    meanings = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(_token(token, meanings) for token in tokens), re.DOTALL)


def _token(token: str, meanings: dict[str, str]) -> str:
    if token.startswith("[") and token.endswith("]") and len(token) > 2:
        inside = re.escape(token[1:-1]).replace(r"\-", "-")
        return f"[^{inside[1:]}]" if token[1] == "!" else f"[{inside}]"
    return meanings.get(token) or re.escape(token)


def below(filesystem: FileSystem, base: str) -> list[FileInfo]:
    """All files below the folder, links and what is no file among them.

    Raises:
        OSError: it cannot be listed.
    """
    from pyarrow.fs import FileSelector, FileType, LocalFileSystem

    if isinstance(filesystem, LocalFileSystem):
        return list(_below_folder(base))
    found = filesystem.get_file_info(FileSelector(base, recursive=True))
    return [info for info in found if info.type != FileType.Directory and not info.path.endswith("/")]


def _below_folder(base: str) -> Iterator[FileInfo]:
    """Arrow's own listing goes round in circles of links, leaves out links to nothing, and fails on names that are not UTF-8."""
    from pyarrow.fs import FileInfo, FileType

    todo = [(base, frozenset[tuple[int, int]]())]
    while todo:
        folder, above = todo.pop()
        here = os.stat(folder)
        above |= {(here.st_dev, here.st_ino)}
        for entry in os.scandir(folder):
            named = os.fsencode(entry.path).decode("utf-8", "backslashreplace")
            try:
                found = os.stat(entry.path)
            except OSError:  # a link to nothing, or to itself
                yield FileInfo(named, type=FileType.Unknown)
                continue
            circle, same = (found.st_dev, found.st_ino) in above, named == entry.path
            if stat.S_ISDIR(found.st_mode) and same and not circle:
                todo.append((entry.path, above))
            else:
                good = stat.S_ISREG(found.st_mode) and same
                yield FileInfo(named, type=FileType.File if good else FileType.Unknown, size=found.st_size)
