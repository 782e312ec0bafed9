"""Rows of a task's data by Hugging Face's `datasets`: files beside the YAML, or a dataset of a hub, at one commit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.errors import InputError
from pipelines.evaluation.harness.task_file import Asked

Row = dict[str, Any]
FORMATS = frozenset({"json", "csv", "parquet", "text", "arrow"})
"""Of files. Others of the library's read pickles, which run what they hold."""
OPTIONS = frozenset(
    {
        "data_files", "data_dir", "revision", "verification_mode", "column_names", "header", "sep", "delimiter", "quotechar",
        "skiprows", "encoding", "field", "columns",
    }
)  # fmt: skip
"""Of `dataset_kwargs`: where the data are, and how their format is read."""
HUB_NAME = re.compile(r"(?!buckets/)[\w-][\w.-]*/[\w.-]+(?<!\.py)")
"""With its owner: one word may be the name of a reader, too."""
HUB_FILE = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@([^/]+))?/")
SCHEMES = ("hf", "https", "http")
ASKED_S = 10.0
"""A hub that has not answered by then is not there; the library by itself tries for half a minute."""


def rows(path: str, asked: Asked, split: str) -> Iterator[Row]:
    """All rows of that split, in their order.

    Raises:
        InputError: there are none to be had, and why.
    """
    import datasets
    import httpx

    datasets.disable_progress_bars()
    options = _options(path, asked)
    source = _source(path, asked, options)
    name = asked.get("dataset_name")
    if name is not None and not isinstance(name, str):
        raise InputError(path, f"dataset_name is {name!r}, no text", "put it in quotes")
    # No broad except: these are what the library and its readers raise over data and networks.
    known = (OSError, ValueError, TypeError, LookupError, RuntimeError, ImportError, httpx.HTTPError)
    try:
        pinned = _pinned(source, options)
        builder = datasets.load_dataset_builder(source, name, **{**options, **pinned})
        _check_commit(path, source, builder.hash, pinned.get("revision"))
        builder.download_and_prepare(verification_mode=options.get("verification_mode"))
        yield from builder.as_dataset(split=split)
    except (*known, datasets.exceptions.DatasetsError) as error:
        raise _unread(path, f"dataset {source}, split {split}", error) from None


def _source(path: str, asked: Asked, options: dict[str, Any]) -> str:
    source = asked.get("dataset_path")
    if isinstance(source, str) and source in FORMATS and options.get("data_files"):
        return source
    remedy = (
        f"name one of {', '.join(sorted(FORMATS))} with dataset_kwargs.data_files, or a dataset of a hub (owner/name)"
    )
    if source is None:
        raise InputError(path, "names no dataset_path", remedy)
    if not isinstance(source, str) or not HUB_NAME.fullmatch(source):
        without = " without dataset_kwargs.data_files" if str(source) in FORMATS else ", which is not read here"
        raise InputError(path, f"dataset_path is {str(source)[:100]!r}{without}", remedy)
    if Path(source).exists():
        raise InputError(path, f"dataset_path {source} is a folder here too, which the library would take", remedy)
    return source


def _options(path: str, asked: Asked) -> dict[str, Any]:
    given = asked.get("dataset_kwargs") or {}
    if not isinstance(given, dict):
        raise InputError(path, "dataset_kwargs is no mapping", "write it as the harness has it")
    options = dict(given)
    if options.pop("trust_remote_code", False):
        remedy = "see that the dataset has its data as files, and write a YAML that includes this one and gives dataset_kwargs anew"
        raise InputError(path, "asks to run a dataset's own Python (trust_remote_code), which is not done", remedy)
    if unknown := sorted(str(name) for name in options.keys() - OPTIONS):
        remedy = f"take it out; {', '.join(sorted(OPTIONS))} are known"
        raise InputError(path, f"dataset_kwargs has `{unknown[0]}`, which is not done here", remedy)
    if options.get("revision") is not None:
        options["revision"] = str(options["revision"])
    # Those of a hub's dataset lie in it.
    beside = path if str(asked.get("dataset_path")) in FORMATS else None
    for name in options.keys() & {"data_files", "data_dir"}:
        options[name] = _placed(path, options[name], beside)
    return options


def _placed(path: str, files: Any, beside: str | None) -> Any:
    """Paths beside the YAML as absolute ones."""
    match files:
        case str():
            return _address(path, files, beside)
        case list():
            return [_placed(path, one, beside) for one in files]
        case dict():
            return {split: _placed(path, one, beside) for split, one in files.items()}
    raise InputError(path, f"dataset_kwargs.data_files has {files!r}", "name a file, a list, or files by their split")


def _address(path: str, file: str, beside: str | None) -> str:
    scheme, found, _ = file.partition("://")
    if not found and "::" not in file:
        if beside is None:
            return file
        if "://" in beside:
            found = f"its data ({file}) lie beside it, not on this machine"
            raise InputError(path, found, "copy both to a local folder")
        return str(Path(beside).parent.resolve() / file)
    if "::" in file or scheme not in SCHEMES:
        known = ", ".join(f"{one}://" for one in SCHEMES)
        raise InputError(path, f"dataset_kwargs.data_files has {file[:200]!r}", f"name a file beside it, or by {known}")
    return file


def _pinned(source: str, options: dict[str, Any]) -> dict[str, str]:
    """The commit that a hub has now: what is loaded then is of it, and a hub that is not there is told soon."""
    from huggingface_hub import HfApi, constants

    asked = [(source, options.get("revision"))] if source not in FORMATS else _hub_files(options["data_files"])
    if constants.HF_HUB_OFFLINE or not asked:
        return {"revision": options["revision"]} if options.get("revision") else {}
    name, revision = asked[0]
    commit = HfApi().dataset_info(name, revision=revision, timeout=ASKED_S).sha
    return {"revision": commit} if source not in FORMATS and commit else {}


def _hub_files(files: Any) -> list[tuple[str, str | None]]:
    match files:
        case str():
            return [(found[1], found[2]) for found in [HUB_FILE.match(files)] if found]
        case dict():
            return [one for inner in files.values() for one in _hub_files(inner)]
        case _:
            return [one for inner in files for one in _hub_files(inner)]


def _check_commit(path: str, source: str, found: str, wanted: str | None) -> None:
    # Without a network the library takes whatever commit it loaded last, also where another is asked for.
    if wanted and source not in FORMATS and found != wanted:
        what = f"dataset {source} at revision {wanted} is not at hand; loaded before was {found}"
        remedy = "load it where there is a network, as dataset_kwargs.revision with its whole commit, or take HF_HUB_OFFLINE away"
        raise InputError(path, what, remedy)


def _unread(path: str, what: str, error: Exception) -> InputError:
    import httpx
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
    reason = " ".join(str(cause).split())[:200] or type(cause).__name__
    match error:
        case RevisionNotFoundError():
            return InputError(path, f"{what}: there is no such revision", "correct dataset_kwargs.revision")
        case GatedRepoError() | RepositoryNotFoundError():
            remedy = "correct dataset_path; for a private or gated one log in (`hf auth login`, or HF_TOKEN)"
            return InputError(path, f"{what}: the hub has no such dataset, or does not show it", remedy)
        case OfflineModeIsEnabled() | ConnectionError() if constants.HF_HUB_OFFLINE:
            remedy = "load it once with a network and the same HF_HOME, or take HF_HUB_OFFLINE out of the environment"
            return InputError(path, f"{what}: is not at hand, and HF_HUB_OFFLINE forbids asking the hub", remedy)
        case httpx.HTTPError() | ConnectionError() | TimeoutError():
            remedy = (
                "see to the network (HF_ENDPOINT, proxies), give files beside the YAML, "
                "or set HF_HUB_OFFLINE=1 to take what was loaded before"
            )
            return InputError(path, f"{what}: {constants.ENDPOINT} does not answer ({reason})", remedy)
        case RuntimeError() if "scripts are no longer supported" in str(error):
            remedy = "name a dataset whose data are files, or give them beside the YAML"
            return InputError(path, f"{what}: is made by Python of its own, which is not run", remedy)
    remedy = "correct dataset_path, dataset_name, dataset_kwargs.data_files or the split"
    return InputError(path, f"{what}: {reason}", remedy)
