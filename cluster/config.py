"""Typed configuration: strict models, YAML with file and line in every error, and the few environment settings."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Self, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, ValidationInfo

from cluster.errors import ConfigError


class StrictModel(BaseModel):
    """Frozen, refuses unknown keys and silent coercions of strings to numbers are pydantic's documented ones."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    def replace(self, **changes: Any) -> Self:
        """A copy with `changes`, validated like the original."""
        return self.model_validate({**dict(self), **changes})


def _resolve(value: str, info: ValidationInfo) -> str:
    """A path relative to the file it stands in becomes absolute; a URI stays as it is."""
    base = (info.context or {}).get("base")
    if "://" in value or base is None:
        return value
    return os.path.normpath(os.path.join(base, os.path.expanduser(value)))


Location = Annotated[str, AfterValidator(_resolve)]
"""A local path (relative to the configuration file that names it) or a URI such as s3://bucket/folder."""

M = TypeVar("M", bound=StrictModel)
Lines = dict[tuple[str | int, ...], int]


def load_yaml(path: str | Path, model: type[M]) -> M:
    """Read `path` as `model`.

    Raises:
        ConfigError: the file is missing, is no YAML mapping, repeats a key, or does not fit the model. The message has
            one line per problem with file, line, field, what was found and the remedy.
    """
    file = Path(path)
    text = _read_text(file)
    data, lines = _parse(file, text)
    try:
        return model.model_validate(data, context={"base": str(file.resolve().parent)})
    except ValidationError as error:
        raise _explain(file, error, lines, model) from None


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(file.name, [p.name for p in file.parent.glob("*.y*ml")], n=1)
        hint = f"did you mean {file.parent / near[0]}?" if near else "give the path of an existing YAML file"
        raise ConfigError(str(file), "no such file", hint) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8 text"
        raise ConfigError(str(file), f"cannot be read: {reason}", "give a readable YAML file in UTF-8") from None


def _parse(file: Path, text: str) -> tuple[dict[str, Any], Lines]:
    """The document and the line on which each of its fields stands."""
    lines: Lines = {}
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{file}:1", "not a mapping of fields", "start the file with `name: ...`")
        for location, line, duplicate in _walk(node, ()):
            if duplicate:
                raise ConfigError(f"{file}:{line}: {_field(location)}", "the key is given twice", "keep one of the two")
            lines[location] = line
        return yaml.safe_load(text), lines
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else str(file)
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(where, f"not valid YAML: {problem}", "mend the syntax there (indentation, quotes, colons)") from None


def _walk(node: yaml.Node, location: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], int, bool]]:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            here = (*location, key.value)
            yield here, key.start_mark.line + 1, key.value in seen
            seen.add(key.value)
            yield from _walk(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield (*location, index), item.start_mark.line + 1, False
            yield from _walk(item, (*location, index))


def _explain(file: Path, error: ValidationError, lines: Lines, model: type[StrictModel]) -> ConfigError:
    problems = [_problem(file, detail, lines, model) for detail in error.errors(include_url=False)]
    first, *rest = problems
    found = first[1] + "".join(f"\n{where}: {what}" for where, what, _ in rest)
    remedies = dict.fromkeys(remedy for _, _, remedy in problems)
    return ConfigError(first[0], found, "; ".join(remedies))


def _problem(file: Path, detail: Any, lines: Lines, model: type[StrictModel]) -> tuple[str, str, str]:
    location = tuple(part for part in detail["loc"] if part in ("[key]",) or True)
    # A union's branch name stands in pydantic's location but not in the file: keep what the file has.
    shown = tuple(location[: i + 1] for i in range(len(location)))
    known = [path for path in shown if path in lines]
    line = lines[known[-1]] if known else 1
    where = f"{file}:{line}: {_field(location)}"
    match detail["type"]:
        case "extra_forbidden":
            near = difflib.get_close_matches(str(location[-1]), _fields_at(model, location[:-1]), n=1)
            remedy = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(_fields_at(model, location[:-1]))}"
            return where, "unknown key", remedy
        case "missing":
            return where, "required and not given", f"add `{location[-1]}:`"
        case _:
            message = detail["msg"].removeprefix("Value error, ")
            given = repr(detail["input"])
            found = f"{message[0].lower()}{message[1:]}, found {given if len(given) <= 60 else given[:57] + '...'}"
            return where, found, "correct the value (`serinus check` verifies it in a second)"


def _field(location: tuple[str | int, ...]) -> str:
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in location).removeprefix(".") or "document"


def _fields_at(model: Any, location: tuple[str | int, ...]) -> list[str]:
    """Names of the fields of the model that stands at `location`, for suggestions."""
    for part in location:
        if isinstance(part, int):
            continue
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            continue
        model = _model_in(field.annotation)
    return list(getattr(model, "model_fields", {}))


def _model_in(annotation: Any) -> Any:
    """The first model inside Optional, tuple, list or Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, UnionType, Annotated, tuple, list, dict):
        for argument in get_args(annotation):
            if (found := _model_in(argument)) is not None:
                return found
    return None


def home() -> Path:
    """Where this user's clusters and keys are kept: $SERINUS_HOME or ~/.serinus."""
    return Path(os.environ.get("SERINUS_HOME") or Path.home() / ".serinus").expanduser()


def s3_endpoint() -> str | None:
    """An S3-compatible server other than AWS, as the AWS tools name it: $AWS_ENDPOINT_URL_S3 or $AWS_ENDPOINT_URL."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def user_name() -> str:
    """Who acts, for audit records."""
    return os.environ.get("SERINUS_USER") or os.environ.get("USER") or os.environ.get("LOGNAME") or "unknown"
