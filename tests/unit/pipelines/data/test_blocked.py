"""Words that keep a document out, and what can be wrong with their list."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from cluster.errors import InputError
from cluster.storage import LocalStorage
from pipelines.config import BlockedWordsConfig
from pipelines.data.blocked import blocked_drops, read_blocked
from tests.unit.pipelines.data import world
from tests.unit.pipelines.data.strategies import column

LIST = "# of the miners\ngas\nMad Hatter\n\nnaïve\n"


def words(path: Path, content: str = LIST) -> BlockedWordsConfig:
    path.write_text(content, encoding="utf-8")
    return BlockedWordsConfig(path=str(path))


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("It smelt of GAS, he said", "gas in characters 12 to 15"),
        ("the mad, mad\nhatter", "Mad Hatter in characters 9 to 19"),
        ("NAÏVE", "naïve in characters 0 to 5"),
        ("gas", "gas in characters 0 to 3"),
    ],
)
def test_a_word_is_found_however_it_is_spelt_and_the_first_one_told(tmp_path: Path, text: str, detail: str) -> None:
    drops = blocked_drops(column(["fine", text, ""]), read_blocked(words(tmp_path / "words.txt")))
    assert {i: drop.detail for i, drop in drops.items()} == {1: detail}
    assert drops[1].reason == "blocked_word"


@pytest.mark.parametrize("text", ["gasoline", "a Mad man met a Hatter", "of the miners", "", "mad", "na ve"])
def test_parts_of_words_and_comments_are_not_found(tmp_path: Path, text: str) -> None:
    assert blocked_drops(column([text]), read_blocked(words(tmp_path / "words.txt"))) == {}


@pytest.mark.parametrize(
    ("word", "found", "not_found"),
    [
        ("की", "यह की है", "का के को यह"),  # vowel signs are marks: they are part of a word
        ("nai\u0308ve", "naïve", "na ve"),  # saved as NFD
        ("e\u0301", "un é", "vitamin e"),
        ("mother-in-law", "my mother in law", "mother"),
        ("don't", "I don't", "don"),
        ("g.o.a.t.", "a g.o.a.t. here", "goat"),
    ],
)
def test_marks_belong_to_words_and_spelling_does_not_matter(
    tmp_path: Path, word: str, found: str, not_found: str
) -> None:
    blocked = read_blocked(words(tmp_path / "words.txt", f"{word}\n"))
    assert list(blocked_drops(column([found, not_found]), blocked)) == [0]


def test_a_list_whose_compression_is_broken_says_so(tmp_path: Path) -> None:
    path = tmp_path / "words.txt.gz"
    for content in (b"gas\n", gzip.compress(b"gas\n" * 99)[:-9]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"blocked_words: words\.txt\.gz"):
            read_blocked(BlockedWordsConfig(path=str(path)))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("", "no words in 0 lines"),
        ("# none\n  # here\n", "no words in 2 lines"),
        (f"{'word ' * 13}\n", "13 words in"),
        ("fine\n--\n", "line 2: '--' is more than words, or none"),
        ("a$$\n", r"line 1: 'a\$\$' is more than words"),
        ("gas\n\N{HAMMER AND PICK}\n", "line 2: .* or none"),
    ],
)
def test_a_list_that_cannot_be_used_says_why(tmp_path: Path, content: str, found: str) -> None:
    with pytest.raises(InputError, match=found):
        read_blocked(words(tmp_path / "words.txt", content))


def test_a_list_that_is_no_text_or_not_there_says_so(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(InputError, match="not UTF-8"):
        read_blocked(BlockedWordsConfig(path=str(tmp_path / "words.txt")))
    with pytest.raises(InputError, match=r"words: .*words\.csv"):
        read_blocked(words(tmp_path / "words.csv"))
    with pytest.raises(InputError):
        read_blocked(BlockedWordsConfig(path=str(tmp_path / "none.txt")))


def test_the_dataset_counts_them_and_is_another_with_another_list(tmp_path: Path, storage: LocalStorage) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for i, text in enumerate(world.TEXTS):
        (folder / f"{i}.txt").write_text(text)
    plain = world.make(storage, world.config(folder))
    keys = {plain.key}
    for content, num in (("brass3\nbrass4\n", 2), ("brass3\n", 1)):
        filters = world.FILTERS.replace(blocked_words=words(tmp_path / "words.txt", content))
        made = world.make(storage, world.config(folder, filters=filters))
        assert made.num_excluded_by_reason.get("blocked_word") == num
        keys.add(made.key)
        assert str(tmp_path) not in made.model_dump_json()
    assert len(keys) == 3
