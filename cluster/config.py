"""Typed configuration: strict models, YAML with file and line in every error, and the few environment settings."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, ValidationInfo

from cluster.config_problems import Lines, Place, check_numbers, explained, field_name
from cluster.errors import ConfigError


class StrictModel(BaseModel):
    """Frozen, and strict about what it takes: unknown keys, NaN and infinity are refused.

    A string that spells a number is taken as one: YAML reads `3e-5` as a string. A model's validator is built when it is first
    needed: a command needs few of them, and building all took it a tenth of a second.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    def replace(self, **changes: Any) -> Self:
        """A copy with `changes`, validated like the original."""
        return self.model_validate({**dict(self), **changes})


def is_none(value: object) -> bool:
    """For `exclude_if`: fields left out where they are not set leave what older versions wrote, and its digest, as it was."""
    return value is None


def is_empty(value: object) -> bool:
    """The same of texts and collections."""
    return not value


def _resolve(value: str, info: ValidationInfo) -> str:
    """A path relative to the file it stands in becomes absolute; a URI stays as it is."""
    if one_slash := re.match(r"(s3|hf|file|https?):/(?!/)", value):
        raise ValueError(f"should begin with {one_slash[1]}://")
    base = (info.context or {}).get("base")
    if "://" in value or base is None:
        return value
    return os.path.normpath(os.path.join(base, os.path.expanduser(value)))


Location = Annotated[str, AfterValidator(_resolve)]
"""A local path (relative to the configuration file that names it) or a URI such as s3://bucket/folder."""


def _web_address(url: str) -> str:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good or parts.username is not None or parts.query or parts.fragment:
        raise ValueError("should be an address such as https://host/path, without a user, a query or a fragment")
    return url.rstrip("/")


WebAddress = Annotated[str, AfterValidator(_web_address)]
"""Of a service that a person names. It may be recorded and shown, so it holds no credentials."""

M = TypeVar("M", bound=StrictModel)

MAX_NODES = 100_000
"""Values in a file with its aliases expanded. Nested aliases otherwise make gigabytes of a few lines."""

MEND = "mend the syntax there (indentation, quotes, colons)"


def load_yaml(path: str | Path, model: type[M]) -> M:
    """Read `path` as `model`.

    Raises:
        ConfigError: the file is missing, is no YAML mapping, repeats a key, or does not fit the model. The message has
            one line per problem with file, line, field, what was found and the remedy.
    """
    file = Path(path)
    data, lines = _parse(file, _read_text(file))
    try:
        made = model.model_validate(data, context={"base": str(file.resolve().parent)})
    except ValidationError as error:
        raise explained(file, error, lines, model) from None
    check_numbers(file, data, lines, model)
    return made


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(file.name, [p.name for p in file.parent.glob("*.y*ml")], n=1)
        hint = f"did you mean {file.parent / near[0]}?" if near else "give the path of an existing YAML file"
        raise ConfigError(str(file), "no such file", hint) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{file}:{line}", "cannot be read: is not UTF-8 text", "save the file as UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(repr(str(file)), f"cannot be read: {reason}", "give a readable YAML file") from None


def _parse(file: Path, text: str) -> tuple[dict[str, Any], Lines]:
    """The document and the line on which each of its fields stands."""
    lines: Lines = {}
    try:
        loader = yaml.SafeLoader(text)  # not libyaml's, which deep nesting brings down with the process
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            found = "is empty" if node is None else "is not a mapping of fields"
            raise ConfigError(f"{file}:1", found, "start the file with a field, as in `name: ...`")
        for place, line, duplicate in _walk(node, ()):
            if duplicate:
                raise ConfigError(
                    f"{file}:{line}: {field_name(place)}", "the key is given twice", "keep one of the two"
                )
            if len(lines) > MAX_NODES:
                raise ConfigError(f"{file}:{line}", f"has more than {MAX_NODES} values", "nest fewer aliases")
            lines[place] = line
        return loader.construct_document(node), lines
    except yaml.YAMLError as error:
        raise _explain_syntax(file, text, error) from None
    except RecursionError:
        raise ConfigError(str(file), "is nested too deep, or an alias holds itself", "flatten it") from None
    except (ValueError, TypeError) as error:  # a date that does not exist, a list as a key, a number of 5000 digits
        raise ConfigError(str(file), f"has a value that is none: {error}", "put it in quotes, or mend it") from None


def _walk(node: yaml.Node, place: Place) -> Iterator[tuple[Place, int, bool]]:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            here = (*place, str(key.value))
            yield here, key.start_mark.line + 1, str(key.value) in seen
            seen.add(str(key.value))
            yield from _walk(value, here)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield (*place, index), item.start_mark.line + 1, False
            yield from _walk(item, (*place, index))


def _explain_syntax(file: Path, text: str, error: yaml.YAMLError) -> ConfigError:
    problem = (getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)).splitlines()[0]
    mark, position = getattr(error, "problem_mark", None), getattr(error, "position", None)
    line = mark.line + 1 if mark else text.count("\n", 0, position) + 1 if position is not None else 1
    tabs = "indent with spaces, not tabs" if "'\\t'" in problem else MEND
    return ConfigError(f"{file}:{line}", f"not valid YAML: {problem}", tabs)


def home() -> Path:
    """Where this user's clusters and keys are kept: $SERINUS_HOME or ~/.serinus."""
    return Path(os.environ.get("SERINUS_HOME") or Path.home() / ".serinus").expanduser()


def s3_endpoint() -> str | None:
    """An S3-compatible server other than AWS, as the AWS tools name it: $AWS_ENDPOINT_URL_S3 or $AWS_ENDPOINT_URL."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


LOOPBACK = "127.0.0.1"
PROVEN = "key:"
"""How a name begins in audit records that a key of the control API has proven."""


def is_loopback(host: str) -> bool:
    """Whether who listens there is heard by this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name: 127.0.0.1.example.com is one, too
        return host == "localhost"


def user_name() -> str:
    """Who acts, for audit records: what people say of themselves.

    Raises:
        ConfigError: the name would pass for a proven one.
    """
    named = os.environ.get("SERINUS_USER") or os.environ.get("USER") or os.environ.get("LOGNAME") or "unknown"
    if named.strip().lower().startswith(PROVEN):
        found = f"begins with `{PROVEN}`, as do names that the control API has proven"
        raise ConfigError("SERINUS_USER", found, "give another name")
    return named


def variable(name: str) -> str | None:
    """A setting that a recipe names and does not hold: an environment variable of this process, if it says anything."""
    return os.environ.get(name) or None


def logs_json() -> bool:
    """Whether lines of the log are JSON: $SERINUS_LOG_FORMAT is `json`."""
    return os.environ.get("SERINUS_LOG_FORMAT", "text").strip().lower() == "json"
