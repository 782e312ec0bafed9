from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from cluster.errors import ConfigError
from pipelines.config import BUILT_IN_RULES, DEFAULT_RULES, RuleConfig
from pipelines.data.functions import FunctionFailed, read_functions
from pipelines.data.functions import recorded as recorded_rule
from pipelines.data.repair import repair_unicode
from pipelines.data.rules import BUILT_IN, compile_rules


def apply(rule: RuleConfig | str, text: str) -> str:
    config = RuleConfig(name=rule) if isinstance(rule, str) else rule
    (compiled,) = compile_rules([config])
    (result,) = compiled.apply(pa.array([text], pa.large_string())).to_pylist()
    assert isinstance(result, str)
    return result


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("plain ASCII stays", "plain ASCII stays"),
        ("cafÃ© in ZÃ¼rich", "café in Zürich"),  # UTF-8 read as Windows-1252
        ("itâ€™s", "it’s"),
        ("“quoted” stays curly", "“quoted” stays curly"),
        ("e\u0301", "é"),  # NFC
        ("zero\u200bwidth\ufeff and soft\u00adhyphen", "zerowidth and softhyphen"),
        ("a\x00b\x07c\x7f", "abc"),
        ("tab\tand\nnewline stay", "tab\tand\nnewline stay"),
        ("carriage\r\nreturn", "carriage\nreturn"),
        ("line\u2028separator", "line\nseparator"),
        ("می\u200cخواهم", "می\u200cخواهم"),  # Persian is spelt with the non-joiner
        ("e\u200b\u0301", "é"),  # composes once the invisible character is gone
    ],
)
def test_repair_unicode(before: str, after: str) -> None:
    assert apply("repair_unicode", before) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("see https://example.org/a?b=c#d for more", "see  for more"),
        ("(see http://example.org/a).", "(see )."),
        ("at www.example.org, or at ftp://example.org/x.", "at , or at ."),
        ("HTTPS://EXAMPLE.ORG", ""),
        ("the http module and www alone", "the http module and www alone"),
        ("a <https://example.org> b", "a <> b"),
    ],
)
def test_strip_urls(before: str, after: str) -> None:
    assert apply("strip_urls", before) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("known.[1] And", "known. And"),
        ("known [1].", "known."),
        ("known [2, 3] and [4–6] too", "known and too"),
        ("known[1][2] twice, [7] times", "known twice, [7] times"),
        ("well,[4][5] so", "well, so"),
        ("a [1] [2] b", "a b"),
        ("true[citation needed]", "true"),
        ("[1] A list of references", "[1] A list of references"),
        ("x = [1, 2, 3]", "x = [1, 2, 3]"),
        ("f(a, [1])", "f(a, [1])"),
        ("a[0] and a[i]", "a[0] and a[i]"),
        ("in [2024]", "in [2024]"),
    ],
)
def test_strip_bracketed_references(before: str, after: str) -> None:
    assert apply("strip_bracketed_references", before) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a  b\t\tc", "a b c"),
        ("a\u00a0\u2003b", "a b"),
        ("first\n\n\n\nsecond", "first\n\nsecond"),  # the paragraph break stays
        ("line  \nnext", "line\nnext"),
        ("if x:\n    return  y", "if x:\n    return y"),  # indentation stays
        ("\n\n  text\n \n", "  text"),
        ("a\r\nb\rc", "a\nb\nc"),
        (" \n\t\n", ""),
    ],
)
def test_collapse_white_space(before: str, after: str) -> None:
    assert apply("collapse_white_space", before) == after


def test_own_rule_replaces_by_group() -> None:
    rule = RuleConfig(name="swap", pattern=r"(\w+)@(\w+)", replacement=r"\2 at \1")
    assert apply(rule, "me@home") == "home at me"


def own(folder: Path, source: str, function: str = "calm") -> RuleConfig:
    (folder / "mine.py").write_text(source, encoding="utf-8")
    return RuleConfig(name="mine", file=str(folder / "mine.py"), function=function)


CALM = "import re\n\ndef calm(text):\n    return re.sub('!+', '.', text)\n"


def test_own_function_is_called_where_its_file_is_not(tmp_path: Path) -> None:
    rule = own(tmp_path, CALM)
    functions = read_functions([rule])
    (tmp_path / "mine.py").unlink()
    (compiled,) = compile_rules([rule], functions)
    assert compiled.apply(pa.array(["Hé!!", ""], pa.large_string())).to_pylist() == ["Hé.", ""]


def test_own_function_is_on_record_by_its_file(tmp_path: Path) -> None:
    first, other = (recorded_rule(own(tmp_path, source)) for source in (CALM, CALM.replace(".", ",")))
    assert first != other
    assert (first["file"], first["function"], first["sha256"][:4]) == ("mine.py", "calm", first["sha256"][:4])
    assert str(tmp_path) not in str(first)
    assert recorded_rule(RuleConfig(name="swap", pattern="a")) == {"name": "swap", "pattern": "a", "replacement": ""}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def calm(text: broken", "cannot be run (SyntaxError"),
        ("import nowhere_to_be_found\n", "cannot be run (ModuleNotFoundError"),
        ("calm = 1\n", "has no function calm"),
        ("", "has no function calm"),
        ("import sys\n\nsys.exit(0)\n", "cannot be run (SystemExit"),
    ],
)
def test_a_function_that_is_not_there_is_told(tmp_path: Path, source: str, found: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compile_rules([own(tmp_path, source)])
    assert caught.value.where == "data.rules: mine"
    assert found in caught.value.found
    missing = RuleConfig(name="mine", file=str(tmp_path / "none.py"), function="calm")
    with pytest.raises(ConfigError, match="cannot be read"):
        compile_rules([missing])
    with pytest.raises(ConfigError, match="built-in rule with a function"):
        compile_rules([RuleConfig(name="strip_urls", file=str(tmp_path / "mine.py"), function="calm")])


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("None", "it returned NoneType, not a text"),
        ("str(int(text))", "ValueError, {file} line 2"),
        ("'\\ud800'", "UnicodeEncodeError"),
        ("exit(0)", "SystemExit, {file} line 2"),
        ("(_ for _ in ()).throw(type(text, (BaseException,), {}))", "an exception of its own, {file} line 2"),
    ],
)
def test_a_function_that_fails_on_a_text_says_where_and_nothing_of_the_text(
    tmp_path: Path, answer: str, told: str
) -> None:
    (rule,) = compile_rules([own(tmp_path, f"def calm(text):\n    return {answer} if 'card' in text else text\n")])
    with pytest.raises(FunctionFailed) as caught:
        rule.apply(pa.array(["fine", "card 4111"], pa.large_string()))
    place = told.format(file=tmp_path / "mine.py")
    assert caught.value.row == 1
    assert caught.value.told == f"data.rules: mine: calm failed on a text of 9 characters ({place})"


ORDINARY = """\ufefffrom dataclasses import dataclass
from pydantic import BaseModel

@dataclass
class Marks:
    wrong: str = "!"

class Inner(BaseModel):
    right: str = "."

class Outer(BaseModel):
    inner: Inner = Inner()

def calm(text):
    assert __file__.endswith("mine.py")
    assert calm.__annotations__ == {}
    return text.replace(Marks().wrong, Outer().inner.right)
"""


def test_a_file_with_classes_is_as_good_as_any(tmp_path: Path) -> None:
    (rule,) = compile_rules([own(tmp_path, ORDINARY)])
    assert rule.apply(pa.array(["Hé!"], pa.large_string())).to_pylist() == ["Hé."]


@pytest.mark.parametrize(
    "fields",
    [
        {"file": "a.py"},
        {"function": "f"},
        {"file": "a.py", "function": "f", "pattern": "a"},
        {"file": "a.py", "function": "f.g"},
    ],
)
def test_a_function_and_its_file_belong_together(fields: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        RuleConfig.model_validate({"name": "mine", **fields})


def test_rules_keep_their_order() -> None:
    a_to_b = RuleConfig(name="first", pattern="a", replacement="b")
    b_to_c = RuleConfig(name="second", pattern="b", replacement="c")
    for configs, expected in (((a_to_b, b_to_c), "cc"), ((b_to_c, a_to_b), "bc")):
        texts = pa.array(["ab"], pa.large_string())
        for rule in compile_rules(configs):
            texts = rule.apply(texts)
        assert texts.to_pylist() == [expected]


@pytest.mark.parametrize(
    ("rule", "found", "remedy"),
    [
        (RuleConfig(name="mine", pattern="("), "missing )", "RE2"),
        (RuleConfig(name="mine", pattern="(?<=a)b"), "perl operator", "RE2"),
        (RuleConfig(name="mine", pattern="a", replacement=r"\1"), "replacement", "RE2"),
        (RuleConfig(name="strip_urls", pattern="a"), "built-in rule with a pattern", "another name"),
    ],
)
def test_bad_rule_is_named(rule: RuleConfig, found: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compile_rules([rule])
    assert rule.name in caught.value.where
    assert found in caught.value.found
    assert remedy in caught.value.remedy


TOKENS = st.sampled_from(
    [
        "word",
        "x",
        "http://",
        "https://e.org/a",
        "www.",
        "www.a.b",
        ".",
        ",",
        ")",
        "<",
        "[1]",
        "[2, 3]",
        "  ",
        "\t",
        "\n",
        "\r",
    ]
)


@pytest.mark.parametrize("name", BUILT_IN)
@settings(deadline=None)
@given(tokens=st.lists(TOKENS, max_size=30))
def test_built_in_rules_are_idempotent(name: str, tokens: list[str]) -> None:
    once = apply(name, "".join(tokens))
    assert apply(name, once) == once


@settings(deadline=None)
@given(st.text(max_size=60))
def test_repair_leaves_no_control_characters_and_is_idempotent(text: str) -> None:
    once = repair_unicode(text)
    assert not [c for c in once if (ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0]
    assert repair_unicode(once) == once


@settings(deadline=None)
@given(st.text(alphabet=" \t\n\r\u00a0\u3000ab", max_size=60))
def test_white_space_between_words_is_kept_as_a_separator(text: str) -> None:
    collapsed = apply("collapse_white_space", text)
    assert collapsed.split() == text.split()
    assert "\n\n\n" not in collapsed


def test_every_built_in_rule_can_be_named_and_the_first_four_are_the_default() -> None:
    assert BUILT_IN == BUILT_IN_RULES
    named = compile_rules([RuleConfig(name=name) for name in BUILT_IN])
    assert [rule.name for rule in named] == list(BUILT_IN)
    assert [rule.name for rule in compile_rules(DEFAULT_RULES)] == list(BUILT_IN)[:4]
