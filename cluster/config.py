"""Typed configuration: strict models, YAML with file and line in every error, and the few environment settings."""

from __future__ import annotations

import difflib
import ipaddress
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Self, TypeVar, Union, get_args, get_origin
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, ValidationInfo

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
Place = tuple[str | int, ...]
"""Keys and list indices from the document's root to a field."""
Lines = dict[Place, int]

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
                raise ConfigError(f"{file}:{line}: {_field(place)}", "the key is given twice", "keep one of the two")
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


def _explain(file: Path, error: ValidationError, lines: Lines, model: type[StrictModel]) -> ConfigError:
    problems = sorted({_problem(detail, lines, model) for detail in error.errors(include_url=False)})
    (line, field, found, _), *rest = problems
    more = "".join(f"\n{file}:{line}: {field}: {found}" for line, field, found, _ in rest)
    remedies = dict.fromkeys(remedy for *_, remedy in problems)
    return ConfigError(f"{file}:{line}: {field}", found + more, "; ".join(remedies))


def _problem(detail: Any, lines: Lines, model: type[StrictModel]) -> tuple[int, str, str, str]:
    """Line, field, what was found there, and the remedy."""
    kind, value = detail["type"], detail["input"]
    place = _place_in_file(detail["loc"], lines)
    known = [place[:end] for end in range(len(place), 0, -1) if place[:end] in lines]
    line = lines[known[0]] if known else 1
    match kind:
        case "extra_forbidden":
            fields = [name for name in _fields_at(model, detail["loc"][:-1]) if name != place[-1]]
            near = difflib.get_close_matches(str(place[-1]), fields, n=1)
            remedy = f"did you mean `{near[0]}`?" if near else f"known here: {', '.join(fields)}"
            return line, _field(place), "unknown key", remedy
        case "missing":
            place = (*place, detail["loc"][-1])
            # Where unknown keys are refused, that one is told by itself.
            ignored = value if model.model_config.get("extra") == "ignore" and isinstance(value, dict) else ()
            near = difflib.get_close_matches(str(place[-1]), map(str, ignored), n=1)
            remedy = f"rename `{near[0]}:`" if near else f"add `{place[-1]}:`"
            return line, _field(place), "required and not given", remedy
        case "union_tag_not_found":
            name = detail["ctx"]["discriminator"].strip("'")
            return line, _field((*place, name)), "required and not given", f"add `{name}:`"
        case "union_tag_invalid" if isinstance(value, dict):
            name = detail["ctx"]["discriminator"].strip("'")
            place, found = (*place, name), f"{_sentence(kind, detail['msg'])}, found {_shown(value.get(name))}"
            return lines.get(place, line), _field(place), found, "correct the value"
        case "value_error" if not place:
            return _of_document(_sentence(kind, detail["msg"]), lines)
        case "string_type" if isinstance(value, bool | int | float):
            return line, _field(place), f"should be a string, found {_shown(value)}", "put quotes around it"
        case _:
            return line, _field(place), f"{_sentence(kind, detail['msg'])}, found {_shown(value)}", "correct the value"


def _of_document(sentence: str, lines: Lines) -> tuple[int, str, str, str]:
    """Of what several fields together make wrong: the first of them begins the sentence. The document itself is not shown."""
    field, told, found = sentence.partition(": ")
    place: Place = tuple(field.split("."))
    if not told or place[:1] not in lines:
        return 1, "document", sentence, "correct the value"
    line = next(lines[place[:end]] for end in range(len(place), 0, -1) if place[:end] in lines)
    return line, field, found, "correct the value"


def _place_in_file(location: Place, lines: Lines) -> Place:
    """`location` without what pydantic adds: branches of unions, `[key]`, names of validators."""
    place: Place = ()
    for part in location:
        for name in (part, str(part)):
            if (*place, name) in lines:
                place = (*place, name)
                break
    return place


def _sentence(kind: str, message: str) -> str:
    match kind:
        case "model_type" | "model_attributes_type" | "dict_type":
            return "should be a mapping of fields"
        case "tuple_type" | "list_type":
            return "should be a list"
        case "union_tag_invalid":
            return message.partition(" does not match ")[2].replace("any of the expected tags:", "should be one of")
    message = message.removeprefix("Value error, ").removeprefix("Input ").partition(", unable to parse")[0]
    return message[:1].lower() + message[1:]


def _shown(value: Any) -> str:
    """`value` as YAML says it, shortened."""
    try:
        text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else repr(value)
    except (TypeError, ValueError):
        text = str(value)
    return "nothing" if text == "null" else text if len(text) <= 60 else text[:57] + "..."


def _field(place: Place) -> str:
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in place).removeprefix(".") or "document"


def _fields_at(model: type[BaseModel], location: Place) -> list[str]:
    """Names of the fields that may stand at `location`, for suggestions."""
    models: list[type[BaseModel]] = [model]
    for part in location:
        annotations = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        models = [found for annotation in annotations for found in _models_in(annotation)] or models
    return list(dict.fromkeys(name for m in models for name in m.model_fields))


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models inside Optional, Union, tuple, list, dict or Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType, Annotated, tuple, list, dict):
        return [model for argument in get_args(annotation) for model in _models_in(argument)]
    return []


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
