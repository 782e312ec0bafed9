"""What a validator found in a YAML file, for people: line, field, what was found, and the remedy."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from cluster.errors import ConfigError

Place = tuple[str | int, ...]
"""Keys and list indices from the document's root to a field."""
Lines = dict[Place, int]
"""On which line of the file each field stands."""


def explained(file: Path, error: ValidationError, lines: Lines, model: type[BaseModel]) -> ConfigError:
    """All that the validator found, a line for each problem in the file's order, and below them the remedies."""
    details = error.errors(include_url=False)
    told = [detail for detail in details if not _follows(detail, details)]
    problems = sorted({_problem(detail, lines, model) for detail in told})
    (line, field, found, _), *rest = problems
    more = "".join(f"\n{file}:{line}: {field}: {found}" for line, field, found, _ in rest)
    remedies = dict.fromkeys(remedy for *_, remedy in problems)
    return ConfigError(f"{file}:{line}: {field}", found + more, "; ".join(remedies))


def check_numbers(file: Path, data: Any, lines: Lines, model: type[BaseModel]) -> None:
    """Python takes true for 1, and YAML reads yes and on as true.

    Raises:
        ConfigError: that stands where a number belongs.
    """
    for place, value in _booleans(data, ()):
        names = [part for part in place if isinstance(part, str)]
        types = _types_in(
            [m.model_fields[names[-1]].annotation for m in _models_at(model, place) if names[-1] in m.model_fields]
        )
        if types & {int, float} and bool not in types:
            line = lines.get(place, 1)
            found = f"should be a number, found {_shown(value)}"
            raise ConfigError(f"{file}:{line}: {field_name(place)}", found, "correct the value")


def _booleans(value: Any, place: Place) -> Iterator[tuple[Place, bool]]:
    if isinstance(value, bool):
        yield place, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _booleans(inner, (*place, str(key)))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _booleans(inner, (*place, number))


def _types_in(annotations: Iterable[Any]) -> set[Any]:
    """What stands at the ends of Optional, Union, tuple, list, dict and Annotated."""
    types = set[Any]()
    for annotation in annotations:
        inner = get_args(annotation)
        if get_origin(annotation) is Annotated:
            inner = inner[:1]
        types |= {annotation} if not inner or get_origin(annotation) is Literal else _types_in(inner)
    return types


def _follows(detail: Any, details: list[Any]) -> bool:
    """Whether a list is said to be too short only because what is in it is wrong, which is told by itself."""
    if detail["type"] != "too_short" or detail["ctx"]["actual_length"] >= len(detail["input"]):
        return False
    place = detail["loc"]
    return any(other["loc"][: len(place)] == place for other in details if len(other["loc"]) > len(place))


def _problem(detail: Any, lines: Lines, model: type[BaseModel]) -> tuple[int, str, str, str]:
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
            return line, field_name(place), "unknown key", remedy
        case "missing" if isinstance(detail["loc"][-1], int):
            return line, field_name(place), f"has no item {detail['loc'][-1] + 1}, found {_shown(value)}", "add it"
        case "missing":
            place = (*place, detail["loc"][-1])
            # Where unknown keys are refused, that one is told by itself.
            ignored = value if model.model_config.get("extra") == "ignore" and isinstance(value, dict) else ()
            near = difflib.get_close_matches(str(place[-1]), map(str, ignored), n=1)
            remedy = f"rename `{near[0]}:`" if near else f"add `{place[-1]}:`"
            return line, field_name(place), "required and not given", remedy
        case "union_tag_not_found":
            name = detail["ctx"]["discriminator"].strip("'")
            return line, field_name((*place, name)), "required and not given", f"add `{name}:`"
        case "union_tag_invalid" if isinstance(value, dict):
            name = detail["ctx"]["discriminator"].strip("'")
            place, found = (*place, name), f"{_sentence(kind, detail['msg'])}, found {_shown(value.get(name))}"
            return lines.get(place, line), field_name(place), found, "correct the value"
        case "value_error" if not place:
            return _of_document(_sentence(kind, detail["msg"]), lines)
        case "value_error" if isinstance(value, Mapping):
            return _of_section(place, _sentence(kind, detail["msg"]), lines)
        case "string_type" if isinstance(value, bool | int | float):
            return line, field_name(place), f"should be a string, found {_shown(value)}", "put quotes around it"
        case _:
            return (
                line,
                field_name(place),
                f"{_sentence(kind, detail['msg'])}, found {_shown(value)}",
                "correct the value",
            )


def _of_document(sentence: str, lines: Lines) -> tuple[int, str, str, str]:
    """Of what several fields together make wrong: the first of them begins the sentence. The document itself is not shown."""
    field, told, found = sentence.partition(": ")
    place: Place = tuple(field.split("."))
    if not told or place[:1] not in lines:
        return 1, "document", sentence, "correct the value"
    line = next(lines[place[:end]] for end in range(len(place), 0, -1) if place[:end] in lines)
    return line, field, found, "correct the value"


def _of_section(section: Place, sentence: str, lines: Lines) -> tuple[int, str, str, str]:
    """Of what several fields of a mapping make wrong: the first of them that the sentence names. The mapping is not shown."""
    words = [word.strip("(),:;`") for word in sentence.split()]
    for word in [*words[:1], *(name for name in words if re.search(r"\w[_.]\w", name))]:
        if (place := (*section, *word.split("."))) in lines:
            return lines[place], field_name(place), sentence.removeprefix(f"{word}: "), "correct the value"
    line = next((lines[section[:end]] for end in range(len(section), 0, -1) if section[:end] in lines), 1)
    return line, field_name(section), sentence, "correct the value"


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
        case "too_short" | "too_long":
            return re.sub(r"^\w+ (should have .+ items?) after validation.*", r"\1", message)
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


def field_name(place: Place) -> str:
    """As people write it: train.method.rewards[0]."""
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in place).removeprefix(".") or "document"


def _fields_at(model: type[BaseModel], location: Place) -> list[str]:
    """Names of the fields that may stand at `location`, for suggestions."""
    return list(dict.fromkeys(name for m in _models_at(model, (*location, "")) for name in m.model_fields))


def _models_at(model: type[BaseModel], place: Place) -> list[type[BaseModel]]:
    """Those that the last name in `place` may be a field of."""
    models: list[type[BaseModel]] = [model]
    names = [part for part in place if isinstance(part, str)]
    for part in names[:-1]:
        annotations = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        models = [found for annotation in annotations for found in _models_in(annotation)] or models
    return models


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models inside Optional, Union, tuple, list, dict or Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, UnionType, Annotated, tuple, list, dict):
        return [model for argument in get_args(annotation) for model in _models_in(argument)]
    return []
