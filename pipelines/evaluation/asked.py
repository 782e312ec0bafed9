"""Items in a model's tokens: engines that load a folder are asked the same to the token. Pure but for the tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from cluster.errors import InputError
from pipelines.evaluation.items import Item, Likelihood


@dataclass(frozen=True)
class Query:
    """Tokens to score, and from which of them on they count."""

    tokens: list[int]
    first: int
    num_bytes: int
    num_cut: int = 0
    """Tokens that the engine has no room for, left out at the beginning."""

    def told(self, nats: float) -> Likelihood:
        """Of those that count."""
        return Likelihood(nats, len(self.tokens) - self.first, self.num_bytes, self.num_cut)


class Prompt(NamedTuple):
    """Tokens to write behind."""

    tokens: list[int]
    room: int
    """How many may be written."""
    num_cut: int
    """As of a query."""


@dataclass(frozen=True)
class Asked:
    """A folder's tokenizer and the longest text that its engine takes."""

    tokenizer: Any
    folder: str
    max_model_len: int

    def prompt(self, item: Item) -> Prompt:
        """The prompt's tokens, cut from the left to leave room for what is written behind it."""
        room = self.max_model_len - min(item.max_new_tokens, self.max_model_len // 2)
        tokens = self.tokenizer(self._text(item), add_special_tokens=False)["input_ids"]
        return Prompt(list(tokens[-room:]), self.max_model_len - room, max(0, len(tokens) - room))

    def ends(self, item: Item) -> list[int]:
        """Tokens that are one of the item's ends by themselves: engines do not show special ones in the text."""
        added = getattr(self.tokenizer, "added_tokens_decoder", {}).values()
        special = {*self.tokenizer.all_special_tokens, *(one.content for one in added if one.special)}
        return [int(self.tokenizer.convert_tokens_to_ids(stop)) for stop in item.until if stop in special]

    def query(self, prompt: str, answer: str) -> Query:
        """The answer behind its prompt."""
        text = prompt + answer
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        tokens, spans = list(encoded["input_ids"]), list(encoded["offset_mapping"])
        # The first token of all has no probability of its own: text without a prompt gets the start token before it.
        start = self.tokenizer.bos_token_id if self.tokenizer.bos_token_id is not None else self.tokenizer.eos_token_id
        if not prompt and start is not None:
            tokens, spans = [start, *tokens], [(0, 0), *spans]
        keep = self.max_model_len - 1  # vLLM wants to write one token more
        num_cut = max(0, len(tokens) - keep)
        tokens, spans = tokens[-keep:], spans[-keep:]
        first = next((i for i, (_, end) in enumerate(spans) if i and end > len(prompt)), len(tokens))
        scored = text[max(spans[first][0], len(prompt)) :] if first < len(tokens) else ""
        return Query(tokens, first, len(scored.encode()), num_cut)

    def words(self, words: Sequence[str]) -> Mapping[str, Sequence[int]]:
        """As words stand inside a sentence: most tokenizers put the space at their head."""
        return {word: self.tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in words}

    def _text(self, item: Item) -> str:
        if not item.chat:
            return item.prompt
        if not self.tokenizer.chat_template:
            found = f"evaluation task {item.task} asks by the chat template, and the model has none"
            raise InputError(self.folder, found, "give it one, or set `chat: false` in the task")
        turns = [{"role": "user", "content": item.prompt}]
        return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
