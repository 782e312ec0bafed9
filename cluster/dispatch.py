"""What `serinus submit` ships: the recipe alone with its paths made absolute, or a folder with the recipe in it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from cluster.errors import InputError


@contextmanager
def dispatched(recipe: Path, loaded: Mapping[str, Any], working_dir: Path | None) -> Iterator[tuple[Path, str]]:
    """The folder to ship, and the recipe's path in it.

    Args:
        loaded: the recipe's fields as they were given, paths absolute: the job does not run where the recipe stands.
        working_dir: ship this folder; relative paths of the recipe then mean its copy on the head.

    Raises:
        InputError: there is no such `working_dir`, the recipe is not in it, or what it makes would be lost with the copy.
    """
    if working_dir is not None:
        yield working_dir, _inside(recipe, loaded, working_dir)
        return
    with tempfile.TemporaryDirectory(prefix="serinus-job-") as folder:
        (Path(folder) / "recipe.yaml").write_text(yaml.safe_dump(dict(loaded), sort_keys=False))
        yield Path(folder), "recipe.yaml"


def _inside(recipe: Path, loaded: Mapping[str, Any], working_dir: Path) -> str:
    root = working_dir.resolve()
    if not root.is_dir():
        raise InputError(f"--working-dir {working_dir}", "no such folder", "name the folder that holds the recipe")
    if not recipe.resolve().is_relative_to(root):
        raise InputError(str(recipe), f"is not in {working_dir}", "name a --working-dir that holds the recipe")
    written = _uri(yaml.safe_load(recipe.read_text(encoding="utf-8")).get("storage", ""))
    storage = _uri(loaded.get("storage", "."))
    relative = "://" not in str(written) and not Path(str(written)).is_absolute()
    if relative or ("://" not in storage and Path(storage).resolve().is_relative_to(root)):
        found = f"{written or storage} is beside the copy of {working_dir} there: what the job makes would go with it"
        raise InputError(f"{recipe}: storage", found, "name a folder that the cluster shares, or s3://bucket/folder")
    return recipe.resolve().relative_to(root).as_posix()


def _uri(storage: Any) -> str:
    """Of a recipe's `storage`, which may be a mapping."""
    return str(storage.get("uri", "") if isinstance(storage, Mapping) else storage)
