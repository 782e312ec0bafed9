"""What a method's file says, line by line: JSONL -> conversations -> text by the model's chat template."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from cluster.errors import InputError
from cluster.storage import open_storage

Messages = list[dict[str, str]]

SHAPES = {
    "instruct": 'give {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'
    ' or {"prompt": "...", "answer": "..."}',
    "dpo": 'give {"prompt": "...", "chosen": "...", "rejected": "..."}; prompt may be a list of messages',
    "grpo": 'give {"prompt": "..."} and what the rewards take, as {"prompt": "...", "answer": "..."};'
    " prompt may be a list of messages that ends with the user's",
}
"""What a line of each method's file looks like, as a remedy."""


def read_file(path: str) -> bytes:
    """The bytes of a method's file.

    Raises:
        InputError: there is none.
    """
    folder, _, name = path.rpartition("/")
    blob = open_storage(folder or ".").read(name)
    if blob is None:
        raise InputError(path, "no such file", "correct `train.method.path`")
    return blob.content


def conversations(kind: str, path: str, content: bytes) -> Iterator[tuple[str, Messages]]:
    """(where, messages) of each line; two for each line of preferences, the chosen answer first.

    Raises:
        InputError: a line does not fit the method, or there are none.
    """
    for where, given in objects(kind, path, content):
        for messages in _instruction(given) if kind == "instruct" else _preference(given):
            if not _complete(messages):
                raise unfit(kind, where, given)
            yield where, messages


def objects(kind: str, path: str, content: bytes) -> Iterator[tuple[str, Any]]:
    """(where, what JSON says) of each line that is not blank.

    Raises:
        InputError: a line is not JSON, or there are none.
    """
    try:
        lines = content.decode("utf-8-sig").split("\n")  # U+2028 and its like may stand inside a JSON text
    except UnicodeDecodeError:
        raise InputError(path, "is not UTF-8 text", "save it as JSONL in UTF-8") from None
    numbered = [(f"{path}:{number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise InputError(path, "holds no examples", f"one a line: {SHAPES[kind]}")
    for where, line in numbered:
        try:
            given = json.loads(line)
            json.dumps(given, ensure_ascii=False).encode()  # half a surrogate pair is JSON and no text
        except ValueError as error:
            raise InputError(where, f"is not JSON ({error})", f"one object a line: {SHAPES[kind]}") from None
        yield where, given


def unfit(kind: str, where: str, given: Any) -> InputError:
    """Of a line that the method cannot take."""
    return InputError(where, f"does not fit train.method {kind} (has {_shape(given)})", SHAPES[kind])


def _instruction(given: Any) -> list[Any]:
    match given:
        case {"messages": list(messages), **rest} if not rest.keys() & {"prompt", "answer"}:
            return [messages]
        case {"prompt": str(prompt), "answer": str(answer), **rest} if "messages" not in rest:
            return [[{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]]
    return [None]


def _preference(given: Any) -> list[Any]:
    match given:
        case {"prompt": str(text), "chosen": str(chosen), "rejected": str(rejected)}:
            prompt = [{"role": "user", "content": text}]
        case {"prompt": list(messages), "chosen": str(chosen), "rejected": str(rejected)}:
            prompt = messages
        case _:
            return [None]
    return [[*prompt, {"role": "assistant", "content": answer}] for answer in (chosen, rejected)]


def _complete(messages: Any) -> bool:
    """Whether these are messages that end with the assistant's."""
    return are_messages(messages) and messages[-1]["role"] == "assistant"


def are_messages(given: Any) -> bool:
    """At least one, each with a role and its text."""
    return (
        isinstance(given, list)
        and bool(given)
        and all(isinstance(m, dict) and isinstance(m.get("role"), str) for m in given)
        and all(isinstance(m.get("content"), str) for m in given)
    )


def _shape(given: Any) -> str:
    return ", ".join(sorted(given)) or "no fields" if isinstance(given, dict) else f"a {type(given).__name__}"


def check_template(tokenizer: Any, folder: str) -> None:
    """Raises InputError: the tokenizer has no chat template, or cannot say which characters a token stands for."""
    if not tokenizer.chat_template or not tokenizer.is_fast:
        lacks = "no chat template" if not tokenizer.chat_template else "no fast tokenizer"
        raise InputError(
            folder, f"the model has {lacks}", "take an instruct model as base, or add one to its tokenizer"
        )


def rendered(tokenizer: Any, messages: Messages, where: str, ask: bool) -> str:
    """The conversation as text, with what comes before an answer where one is to be asked for.

    Raises:
        InputError: the template does not take such messages; many know no system turn, or want turns to alternate.
    """
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask))
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        roles = ", ".join(message["role"] for message in messages)
        found = f"the model's chat template refuses it ({error}; its turns: {roles})"
        raise InputError(
            where, found, "write it as the template takes it, or give the tokenizer another template"
        ) from None


def with_turns(tokenizer: Any, messages: Messages, where: str) -> tuple[str, list[tuple[int, int]]]:
    """The conversation as text, and the characters of each of the assistant's turns, its end-of-turn mark included."""

    def render(turns: Messages, ask: bool) -> str:
        return rendered(tokenizer, turns, where, ask) if turns else ""

    text, spans = render(messages, ask=False), []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before, through = render(messages[:number], ask=True), render(messages[: number + 1], ask=False)
        if not (text.startswith(through) and through.startswith(before)):
            found = "the chat template writes a turn differently once others follow it"
            raise InputError(where, found, "give one exchange a line, or another template")
        spans.append((len(before), len(through)))
    return text, spans
