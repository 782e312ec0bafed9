"""Reading a task's file: JSON lines, or .csv as some sets are published. What is wrong is told with its line."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from cluster.errors import InputError
from cluster.storage import open_storage
from pipelines.evaluation.harness.records import Made

Record = dict[str, Any]


def read(path: str) -> bytes:
    """The file's content.

    Raises:
        InputError: there is no such file.
    """
    folder, _, name = path.rpartition("/")
    blob = open_storage(folder or ".").read(name)
    if blob is None:
        raise InputError(path, "no such file", "correct `path:` of the evaluation task")
    return blob.content


def records(path: str) -> Iterator[tuple[str, int, Record]]:
    """(file:line, line, record) of each.

    Raises:
        InputError: the file is missing, no UTF-8 text, or a line is no record.
    """
    try:
        text = read(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(path, "is not UTF-8 text", "save the task as JSONL in UTF-8") from None
    if path.endswith(".csv"):
        yield from _table(path, text)
        return
    # Not splitlines, which cuts at U+2028 and others that JSON leaves inside a string.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{path}:{number}", number, _record(f"{path}:{number}", line)


def text_of(where: str, record: Record, field: str) -> str:
    """A field that must hold text.

    Raises:
        InputError: it does not.
    """
    value = record.get(field)
    if not isinstance(value, str) or not value.strip():
        raise InputError(where, f"`{field}` is missing or not a text", f"give the item its `{field}`")
    return value


def label_of(where: str, record: Record, field: str) -> str:
    """A field that may hold text; empty without it."""
    value = record.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(where, f"`{field}` is not a text", f"write the item's {field} as a text, or leave it out")
    return value


def one_of(where: str, record: Record, field: str, known: tuple[str, ...]) -> str:
    """A field that must hold one of a few words."""
    value = record.get(field)
    if value not in known:
        raise InputError(where, f"`{field}` is {value!r}", f"write one of {', '.join(known)}")
    return str(value)


def index_of(where: str, record: Record, field: str, num_choices: int) -> int:
    """A field that must hold the index of a choice."""
    value = record.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < num_choices:
        raise InputError(
            where, f"`{field}` is {value!r}", f"give the index of the right choice, 0 to {num_choices - 1}"
        )
    return value


def spaced(record: Record, answer: str) -> str:
    """A space between prompt and answer unless one of them brings it: tokenizers put it at the head of a word. A task of the
    harness's says itself what stands there."""
    if isinstance(record, Made):
        return f"{record['delimiter']}{answer}"
    return answer if answer[0].isspace() or record["prompt"][-1].isspace() else f" {answer}"


def _table(path: str, text: str) -> Iterator[tuple[str, int, Record]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        for record in reader:
            yield f"{path}:{reader.line_num}", reader.line_num, dict(record)
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}", f"not CSV ({error})", "mend the row, or write JSONL") from None


def _record(where: str, line: str) -> Record:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise InputError(where, f"not JSON ({error})", "write one JSON object a line") from None
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # an escape that is half of a character: nothing could be written of it
        raise InputError(where, "holds half a character (an unpaired \\ud800 to \\udfff)", "mend its text") from None
    if not isinstance(record, dict):
        raise InputError(where, "not a JSON object", 'write {"id": ..., ...}')
    return record
