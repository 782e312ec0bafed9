"""A task's YAML with what it includes. Its Python is kept by name and never run; what would not end is refused."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.config import MAX_NODES
from cluster.errors import InputError
from cluster.storage import open_storage

Asked = dict[str, Any]
"""What the file asks for, field by field."""

ENDS = (".yaml", ".yml")
MAX_BYTES = 2**20
"""Of a file; the longest of the harness's own has 0.1 MB."""
CHOICES, TEXT, WRITTEN = "multiple_choice", "loglikelihood_rolling", "generate_until"
KINDS = {
    CHOICES: ("multiple_choice", "written_choice"),
    TEXT: ("perplexity",),
    WRITTEN: ("exact_match", "qa", "generation"),
}
"""Values of `output_type` that are done here, with the kinds of our tasks that ask their items."""
LEFT_OUT = frozenset(
    {
        "task", "task_alias", "tag", "group", "metadata", "repeats", "num_fewshot", "training_split", "fewshot_split",
        "fewshot_config", "should_decontaminate", "doc_to_decontamination_query",
    }
)  # fmt: skip
"""Fields that say how the harness names or repeats, and where its examples are: ours are those of the recipe's own task."""
OF_WRITING = frozenset({"generation_kwargs", "filter_list", "metric_list"})
"""Fields that count where the model writes; elsewhere the figures are ours."""
TAKEN = frozenset(
    {
        "dataset_path", "dataset_name", "dataset_kwargs", "test_split", "validation_split", "output_type", "description",
        "doc_to_text", "doc_to_target", "doc_to_choice", "target_delimiter", "fewshot_delimiter", "gen_prefix",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Python:
    """What `!function` names."""

    name: str


def is_task(path: str) -> bool:
    return path.endswith(ENDS)


def unfit(path: str, found: str) -> InputError:
    remedy = "give the items as JSONL (docs/evaluation.md, Tasks); the harness's own --log_samples writes them out"
    return InputError(path, found, remedy)


def read(path: str) -> Asked:
    """The file's fields, over those of what it includes.

    Raises:
        InputError: no such file, no YAML, or one that asks for what is not done here.
    """
    asked = _merged(path, set())
    tasks = asked.get("task")
    if isinstance(tasks, list) or "task_list" in asked:
        names = ", ".join(one for one in tasks or () if isinstance(one, str))
        raise InputError(path, f"is a group of tasks ({names[:200]})", "name its tasks' own files, each as a task")
    for name in sorted(map(str, asked.keys() - LEFT_OUT - OF_WRITING)):
        if called := next(named(asked.get(name)), None):
            raise unfit(path, f"calls Python of the harness's (!function {called.name}) in `{name}`")
        if name not in TAKEN:
            raise unfit(path, f"asks for `{name}`, which is not done here")
    if (kind := asked.setdefault("output_type", WRITTEN)) not in KINDS:
        raise unfit(path, f"has output_type {kind}; {', '.join(KINDS)} are read")
    return asked


def check_kind(path: str, asked: Asked, kind: str) -> None:
    """Raises InputError where our task's kind does not ask such items."""
    if kind not in (fitting := KINDS[asked["output_type"]]):
        found = f"has output_type {asked['output_type']}, and the task that names it is of kind {kind}"
        raise InputError(path, found, f"write kind: {' or '.join(fitting)}")


def named(value: Any) -> Iterator[Python]:
    """All Python in a value."""
    match value:
        case Python():
            yield value
        case dict():
            for one in value.values():
                yield from named(one)
        case list():
            for one in value:
                yield from named(one)


def _merged(path: str, seen: set[str]) -> Asked:
    place = path if "://" in path else str(Path(path).resolve())
    if place in seen:
        raise InputError(path, "is included twice, or by itself", "mend `include:`")
    seen.add(place)
    asked = _loaded(path, _content(path))
    included = asked.pop("include", None) or []
    merged: Asked = {}
    for one in included if isinstance(included, list) else [included]:
        if not isinstance(one, str) or not one.strip() or "\0" in one:
            raise InputError(path, f"`include` is {str(one)[:100]!r}, no file", "name a file, or a list of files")
        beside = one if "://" in one else posixpath.join(path.rpartition("/")[0] or ".", one)
        merged |= _merged(beside, seen)
    return {**merged, **asked}


def _content(path: str) -> bytes:
    folder, _, name = path.rpartition("/")
    if "://" not in path:
        # Not a device nor a pipe, which have no end.
        size = Path(path).stat().st_size if Path(path).is_file() else None
        try:
            content = Path(path).read_bytes() if size is not None and size <= MAX_BYTES else b""
        except OSError as error:
            raise InputError(path, f"cannot be read: {error.strerror}", "give a readable file") from None
    else:
        blob = open_storage(folder).read(name)
        size, content = (None, b"") if blob is None else (len(blob.content), blob.content)
    if size is None:
        remedy = "correct `path:` of the evaluation task, or `include:` of the file that names it"
        raise InputError(path, "no such file", remedy)
    if size > MAX_BYTES:
        raise InputError(
            path, f"has {size:,} bytes, more than a task's YAML", "give a task's YAML, as the harness has it"
        )
    return content


class _Loader(yaml.SafeLoader):  # not libyaml's, which deep nesting brings down with the process
    pass


_Loader.add_constructor("!function", lambda loader, node: Python(str(node.value)))


def _loaded(path: str, content: bytes) -> Asked:
    try:
        loader = _Loader(content)
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise InputError(path, "is no mapping", "give a task's YAML, as the harness has it")
        if _is_swollen(node):
            raise InputError(path, f"has more than {MAX_NODES} values", "nest fewer aliases")
        return dict(loader.construct_document(node))
    except yaml.YAMLError as error:
        raise InputError(path, f"is not YAML ({' '.join(str(error).split())[:200]})", "mend the file") from None
    except RecursionError:
        raise InputError(path, "is nested too deep", "flatten it") from None
    except (ValueError, TypeError) as error:  # a date that does not exist, a list as a key
        found = f"has a value that is none: {str(error)[:200]}"
        raise InputError(path, found, "put it in quotes, or mend it") from None


def _is_swollen(node: yaml.Node) -> bool:
    """Whether it has too many values once its aliases are followed: a few lines of them otherwise make gigabytes."""
    waiting, num = [node], 0
    while waiting and num <= MAX_NODES:
        one = waiting.pop()
        num += 1
        if isinstance(one, yaml.MappingNode):
            waiting += [part for pair in one.value for part in pair]
        elif isinstance(one, yaml.SequenceNode):
            waiting += one.value
    return num > MAX_NODES
