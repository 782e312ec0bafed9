"""Rules that are Python functions of the user's: their files are read at the driver and run on the workers.

What such a function says of a text is told to nobody: rules come before personal data is masked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import ConfigError
from pipelines.config import RuleConfig
from pipelines.data.inventory import locate, reason
from pipelines.own_function import load_function

if TYPE_CHECKING:
    import pyarrow as pa


class FunctionFailed(Exception):
    """On one text: `row` of the column, and what is to be told. Never leaves the worker: see batch.clean_batch."""

    def __init__(self, row: int, told: str) -> None:
        super().__init__(row, told)
        self.row, self.told = row, told


def read_functions(configs: Sequence[RuleConfig]) -> dict[str, str]:
    """The source of each rule that is a function, by the rule's name: workers need not have the file.

    Raises:
        ConfigError: a file cannot be read.
    """
    return {config.name: _source(config.name, config.file) for config in configs if config.file is not None}


def _source(name: str, file: str) -> str:
    filesystem, path = locate(file)
    try:
        with filesystem.open_input_stream(path, compression=None) as stream:
            return bytes(stream.read()).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = reason(error) if isinstance(error, OSError) else error
        raise ConfigError(f"data.rules: {name}", f"{file} cannot be read ({why})", "name a Python file") from None


def recorded(config: RuleConfig) -> dict[str, Any]:
    """The rule as what decides over the result: a function by the hash of its file."""
    plain = config.model_dump(mode="json", exclude={"file", "function"})
    if config.file is None:
        return plain
    sha256 = hashlib.sha256(_source(config.name, config.file).encode()).hexdigest()
    return {**plain, "function": config.function, "file": Path(config.file).name, "sha256": sha256}


def calling(config: RuleConfig, functions: Mapping[str, str]) -> Callable[[pa.Array], pa.Array]:
    """The function as a rule over a column, which raises FunctionFailed where it fails or returns no text.

    Raises:
        ConfigError: the file cannot be run, or has no such function.
    """
    function = _loaded(config, functions[config.name])
    where = f"data.rules: {config.name}"

    def apply(texts: pa.Array) -> pa.Array:
        import pyarrow as pa

        changed = list[str]()
        for row, text in enumerate(texts.to_pylist()):
            try:
                changed.append(_checked(function(text)))
            except KeyboardInterrupt:
                raise KeyboardInterrupt from None  # Ray's way to cancel
            except BaseException as error:
                told = f"{where}: {config.function} failed on a text of {len(text)} characters"
                raise FunctionFailed(row, f"{told} ({_place(error, str(config.file))})") from None
        return pa.array(changed, pa.large_string())

    return apply


def _loaded(config: RuleConfig, source: str) -> Callable[[str], object]:
    where = f"data.rules: {config.name}"
    remedy = "name one that takes a text and returns one"
    return load_function(source, str(config.file), str(config.function), where, remedy)


def _checked(found: object) -> str:
    if not isinstance(found, str):
        raise NoText(type(found).__name__)
    found.encode()  # half of a surrogate pair is no text
    return found


class NoText(Exception):
    """What the function returned instead."""


def _place(error: BaseException, file: str) -> str:
    """What failed and where in the user's file, without the error's own words: texts stand in them."""
    if isinstance(error, NoText):
        return f"it returned {error}, not a text"
    lines, step = list[int](), error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == file:
            lines.append(step.tb_lineno)
        step = step.tb_next
    name = type(error).__name__ if type(error).__module__ == "builtins" else "an exception of its own"
    return f"{name}, {file} line {lines[-1]}" if lines else name
