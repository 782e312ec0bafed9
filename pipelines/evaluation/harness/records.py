"""Items of a task's YAML: what its columns and templates make of each row."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator
from typing import Any

from cluster.errors import InputError
from pipelines.evaluation.harness.rows import Row, rows
from pipelines.evaluation.harness.task_file import CHOICES, OF_WRITING, TEXT, WRITTEN, Asked, read, unfit
from pipelines.evaluation.harness.templates import filled


class Made(dict[str, Any]):
    """A record that a task's YAML makes, and no line of somebody's file. Beside what such a line has it says how the item is put:
    `lead` (what stands once before all examples), `delimiter` (between prompt and answer), `between` (behind an example)."""


def digest(path: str) -> str:
    """SHA-256 over the items and what is said of writing: YAML, what it includes and the data decide together."""
    asked = read(path)
    whole = hashlib.sha256()
    if asked["output_type"] == WRITTEN:
        said = {name: asked.get(name) for name in sorted(OF_WRITING)}
        whole.update(json.dumps(said, sort_keys=True, default=str).encode() + b"\n")
    for _, _, record in made(path, asked):
        whole.update(json.dumps(record, sort_keys=True, ensure_ascii=False).encode() + b"\n")
    return whole.hexdigest()


def made(path: str, asked: Asked) -> Iterator[tuple[str, int, Made]]:
    """(where, number, record) of each item: `prompt` with `choices` and `answer`, or with `answers`; or `text`.

    Raises:
        InputError: the YAML does not fit its data; no data.
    """
    split = asked.get("test_split") or asked.get("validation_split")
    if not isinstance(split, str):
        raise InputError(path, "names no test_split and no validation_split", "name the split that is to be asked")
    seen: set[str] = set()
    for number, row in enumerate(rows(path, asked, split), 1):
        record = _record(f"{path}: {split}, item {number}", asked, row)
        # Data may have a column of that name in which values come again.
        if isinstance(name := row.get("id"), str) and name not in seen:
            seen.add(name)
            record["id"] = name
        _check_text(f"{path}: {split}, item {number}", record)
        yield f"{path}: {split}, item {number}", number, record


def _check_text(where: str, record: Made) -> None:
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # an escape that is half of a character: nothing could be written of it
        raise InputError(where, "holds half a character (an unpaired \\ud800 to \\udfff)", "mend the text") from None


def _record(where: str, asked: Asked, row: Row) -> Made:
    if asked["output_type"] == TEXT:
        return Made(text=_rendered(where, asked, "doc_to_target", row))
    record = Made(
        lead=_rendered(where, asked, "description", row) if asked.get("description") else "",
        prompt=_rendered(where, asked, "doc_to_text", row),
        delimiter=_plain(where, asked, "target_delimiter", " "),
        between=_plain(where, asked, "fewshot_delimiter", "\n\n"),
    )
    if asked["output_type"] == WRITTEN:
        record["answers"] = _answers(where, asked, row)
    else:
        record["choices"] = _choices(where, asked, row)
        record["answer"] = _gold(where, asked, row, record["choices"])
    if asked.get("doc_to_choice") is not None and _is_number(record["prompt"], asked["doc_to_text"], row):
        raise unfit(where, "`doc_to_text` gives a number: the harness then asks one context for each choice")
    if asked.get("gen_prefix"):
        _begin(record, _rendered(where, asked, "gen_prefix", row), asked["output_type"])
    return record


def _is_number(prompt: str, text: str, row: Row) -> bool:
    """As the harness tells: by the column's type, or the template's digits."""
    return isinstance(row[text], int) if text in row else prompt.isdigit()


def _begin(record: Made, prefix: str, kind: str) -> None:
    """Put the answer's beginning, which the model is given, behind the prompt."""
    prompt = record["prompt"]
    apart = bool(prompt) and not prompt[-1].isspace() and not prefix[:1].isspace()
    record["prompt"] = f"{prompt}{record['delimiter'] if apart else ''}{prefix}"
    record["begins"] = True
    if kind != CHOICES and prefix:  # as the harness puts an example's answer behind it
        record["delimiter"] = "" if prefix[-1].isspace() else " "


def _plain(where: str, asked: Asked, field: str, default: str) -> str:
    value = asked.get(field, default)
    if not isinstance(value, str):
        raise InputError(where, f"`{field}` is {value!r}, no text", "put it in quotes")
    return value


def _rendered(where: str, asked: Asked, field: str, row: Row) -> str:
    """A column's name stands for the column, anything else is a template."""
    template = asked.get(field)
    if not isinstance(template, str) or template not in row:
        return filled(where, field, template, row)
    if isinstance(value := row[template], str | int | float):
        return str(value)
    found = f"`{field}` names the column {template}, which holds {_shown(value)}"
    raise InputError(where, found, f"mend `{field}` to give a text")


def _choices(where: str, asked: Asked, row: Row) -> list[str]:
    given = asked.get("doc_to_choice")
    if isinstance(given, str):
        given = row[given] if given in row else _literal(filled(where, "doc_to_choice", given, row))
    elif isinstance(given, dict):
        given = list(given.values())
    if not isinstance(given, list):
        remedy = "give a list, a column with one, or a template that writes one"
        raise InputError(where, "`doc_to_choice` gives no list", remedy)
    if odd := [one for one in given if isinstance(one, bool) or not isinstance(one, str | int | float)]:
        found = f"`doc_to_choice` has {_shown(odd[0])}"
        raise InputError(where, found, "give texts; yes, no, on and off are texts in quotes alone")
    return [
        filled(where, "doc_to_choice", one, row) if isinstance(one, str) and "{{" in one else str(one) for one in given
    ]


def _gold(where: str, asked: Asked, row: Row, choices: list[str]) -> int:
    """Digits that a template writes are an index; a column's text is one of the choices."""
    found = _target(where, asked, row)
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    if isinstance(found, str) and found in choices:
        found = choices.index(found)
    if not isinstance(found, int) or not 0 <= found < len(choices):
        wanted = f"an index below {len(choices)} or one of the choices"
        remedy = f"mend `doc_to_target` to give {wanted}"
        raise InputError(where, f"`doc_to_target` is {_shown(found)}, not {wanted}", remedy)
    return int(found)


def _answers(where: str, asked: Asked, row: Row) -> list[str]:
    """Each of which is right; none where the data have an empty list."""
    if asked.get("doc_to_choice") is not None:
        choices = _choices(where, asked, row)
        return [choices[_gold(where, asked, row, choices)]]
    found = _target(where, asked, row)
    answers = found if isinstance(found, list) else [found]
    if not all(isinstance(one, str | int | float) for one in answers):
        found = f"`doc_to_target` is {_shown(found)}, no text and no list of texts"
        raise InputError(where, found, "mend `doc_to_target`, or take the row out")
    return [str(one) for one in answers]


def _target(where: str, asked: Asked, row: Row) -> Any:
    """A column's value; or what a template writes, which may be an index into choices, or a list."""
    target = asked.get("doc_to_target")
    if isinstance(target, str) and target in row:
        return row[target]
    if isinstance(target, int | list):
        return target
    text = filled(where, "doc_to_target", target, row)
    if asked.get("doc_to_choice") is not None and text.isdecimal() and len(text) < 10:
        return int(text)
    if len(text) > 1 and text[0] == "[" and text[-1] == "]":
        found = _literal(text)
        return text if found is None else found
    return text


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _shown(value: Any) -> str:
    return repr(str(value)[:100]) if isinstance(value, str | list | dict) else repr(value)[:100]
