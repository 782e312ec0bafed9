"""Tasks of the Language Model Evaluation Harness (EleutherAI/lm-evaluation-harness, docs/new_task_guide.md): its YAML files, with
data of one's own or of a hub, become items here. What they compute in Python is not run."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from cluster.errors import InputError
from cluster.storage import open_storage

Record = dict[str, Any]

ENDS = (".yaml", ".yml")
KINDS = ("multiple_choice", "loglikelihood_rolling")
"""Values of `output_type` whose items are asked the same here: choices, and text."""
LEFT_OUT = frozenset(
    {
        "task", "task_alias", "tag", "group", "metadata", "metric_list", "repeats", "num_fewshot", "training_split",
        "fewshot_split", "fewshot_config", "fewshot_delimiter", "generation_kwargs", "filter_list", "should_decontaminate",
        "doc_to_decontamination_query",
    }
)  # fmt: skip
"""Fields that say how the harness counts, names or repeats: figures and examples are those of the recipe's own task."""
TAKEN = frozenset(
    {
        "include", "dataset_path", "dataset_name", "dataset_kwargs", "test_split", "validation_split", "output_type", "description",
        "doc_to_text", "doc_to_target", "doc_to_choice", "target_delimiter",
    }
)  # fmt: skip


def is_task(path: str) -> bool:
    return path.endswith(ENDS)


def digest(path: str) -> str:
    """SHA-256 over the items: YAML, what it includes and the data decide together."""
    whole = hashlib.sha256()
    for _, _, record in records(path):
        whole.update(json.dumps(record, sort_keys=True, ensure_ascii=False).encode() + b"\n")
    return whole.hexdigest()


def records(path: str) -> Iterator[tuple[str, int, Record]]:
    """(where, number, record) of each item: `prompt`, `choices`, `answer` and `delimiter`, or `text`.

    Raises:
        InputError: the YAML asks for what is not done here, or does not fit its data; no data.
    """
    asked = _read(path)
    if unknown := sorted(asked.keys() - LEFT_OUT - TAKEN):
        raise _unfit(path, f"asks for `{unknown[0]}`, which is not done here")
    if (kind := asked.get("output_type", "generate_until")) not in KINDS:
        raise _unfit(path, f"has output_type {kind}; {' and '.join(KINDS)} are read")
    split = asked.get("test_split") or asked.get("validation_split")
    if not split:
        raise InputError(path, "names no test_split and no validation_split", "name the split that is to be asked")
    for number, row in enumerate(_rows(path, asked, str(split)), 1):
        where = f"{path}: {split}, item {number}"
        yield where, number, _record(where, asked, kind, row)


def _read(path: str) -> Record:
    """With what it includes under it."""
    folder, _, name = path.rpartition("/")
    blob = open_storage(folder or ".").read(name)
    if blob is None:
        raise InputError(
            path, "no such file", "correct `path:` of the evaluation task, or `include:` of the file that names it"
        )
    try:
        asked = yaml.load(blob.content, _Loader)  # noqa: S506  # a SafeLoader, which knows one tag more
    except yaml.YAMLError as error:
        raise InputError(path, f"is not YAML ({' '.join(str(error).split())[:200]})", "mend the file") from None
    except _Function as error:
        raise _unfit(path, f"calls Python of the harness's (!function {error})") from None
    if not isinstance(asked, dict):
        raise InputError(path, "is no mapping", "give a task's YAML, as the harness has it")
    included = asked.pop("include", None)
    return {**(_read(f"{folder or '.'}/{included}") if included else {}), **asked}


class _Function(Exception):
    """A tag of the harness's that names Python."""


class _Loader(yaml.SafeLoader):
    pass


def _function(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
    raise _Function(getattr(node, "value", ""))


_Loader.add_constructor("!function", _function)


def _unfit(path: str, found: str) -> InputError:
    remedy = (
        "give the items as JSONL with `prompt`, `choices` and `answer`; the harness's own --log_samples writes them out"
    )
    return InputError(path, found, remedy)


def _rows(path: str, asked: Record, split: str) -> Iterator[Record]:
    """Of that split, by Hugging Face's datasets: files beside the YAML, or a hub's where there is a network."""
    import datasets
    from datasets.exceptions import DatasetGenerationError

    datasets.disable_progress_bars()
    options = dict(asked.get("dataset_kwargs") or {})
    if "data_files" in options:
        options["data_files"] = _placed(options["data_files"], Path(path).parent)
    source = asked.get("dataset_path")
    if not isinstance(source, str):
        raise InputError(
            path,
            "names no dataset_path",
            "name json, csv or parquet with dataset_kwargs.data_files, or a hub's",
        )
    try:
        found = datasets.load_dataset(source, asked.get("dataset_name"), split=split, **options)
    except (OSError, ValueError, TypeError, DatasetGenerationError) as error:
        what = f"dataset {source}, split {split}: {' '.join(str(error.__cause__ or error).split())[:200]}"
        raise InputError(
            path, what, "correct dataset_path, dataset_kwargs.data_files or the split; a hub needs a network"
        ) from None
    yield from found


def _placed(files: Any, folder: Path) -> Any:
    """Paths beside the YAML as absolute ones."""
    match files:
        case str():
            return files if "://" in files else str(folder.resolve() / files)
        case list():
            return [_placed(one, folder) for one in files]
        case dict():
            return {split: _placed(one, folder) for split, one in files.items()}
    return files


def _record(where: str, asked: Record, kind: str, row: Record) -> Record:
    known = {"id": row["id"]} if isinstance(row.get("id"), str) else {}
    if kind == "loglikelihood_rolling":
        return {**known, "text": _rendered(where, asked, "doc_to_target", row)}
    choices = _choices(where, asked, row)
    return {
        **known,
        "prompt": str(asked.get("description") or "") + _rendered(where, asked, "doc_to_text", row),
        "choices": choices,
        "answer": _gold(where, asked, row, choices),
        "delimiter": str(asked.get("target_delimiter", " ")),
    }


def _rendered(where: str, asked: Record, field: str, row: Record) -> str:
    """A column's name stands for the column, anything else is a template."""
    template = asked.get(field)
    if isinstance(template, str) and template in row:
        return str(row[template])
    return _filled(where, field, template, row)


def _filled(where: str, field: str, template: Any, row: Record) -> str:
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import SandboxedEnvironment

    if not isinstance(template, str):
        raise InputError(where, f"`{field}` is no text", f"give `{field}` as a column's name or a template")
    try:
        return (
            SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
            .from_string(template)
            .render(**row)
        )
    except (TemplateError, TypeError, ValueError, ArithmeticError) as error:
        columns = ", ".join(sorted(row))
        raise InputError(where, f"`{field}` does not fit: {error} (columns: {columns})", f"mend `{field}`") from None


def _choices(where: str, asked: Record, row: Record) -> list[str]:
    given = asked.get("doc_to_choice")
    if isinstance(given, str):
        given = row[given] if given in row else _literal(_filled(where, "doc_to_choice", given, row))
    elif isinstance(given, dict):
        given = list(given.values())
    if not isinstance(given, list):
        raise InputError(
            where, "`doc_to_choice` gives no list", "give a list, a column with one, or a template that writes one"
        )
    return [
        _filled(where, "doc_to_choice", one, row) if isinstance(one, str) and "{{" in one else str(one) for one in given
    ]


def _gold(where: str, asked: Record, row: Record, choices: list[str]) -> int:
    """Digits that a template writes are an index; a column's text is one of the choices."""
    found = asked.get("doc_to_target")
    if isinstance(found, str) and found in row:
        found = row[found]
    elif not isinstance(found, int):
        text = _filled(where, "doc_to_target", found, row)
        found = int(text) if text.isdigit() else text
    if isinstance(found, str) and found in choices:
        found = choices.index(found)
    if not isinstance(found, int) or isinstance(found, bool) or not 0 <= found < len(choices):
        wanted = f"an index below {len(choices)} or one of the choices"
        raise InputError(where, f"`doc_to_target` is {found!r}, not {wanted}", f"mend `doc_to_target` to give {wanted}")
    return found


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None
