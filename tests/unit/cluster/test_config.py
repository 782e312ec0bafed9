"""What people get wrong in a YAML file, and what they are told: file, line, field, what was found, the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from cluster.config import Location, StrictModel, home, load_yaml
from cluster.errors import ConfigError


class Circle(StrictModel):
    kind: Literal["circle"]
    radius: float = Field(gt=0)


class Square(StrictModel):
    kind: Literal["square"]
    side: int


class Part(StrictModel):
    path: Location = "."
    count: int = Field(1, ge=0)


class Gauge(StrictModel):
    low: float = 0.0
    warn_at: float = 0.0
    names: tuple[str, ...] = Field(("a",), min_length=1)

    @model_validator(mode="after")
    def _ascends(self) -> Gauge:
        if self.low > self.warn_at:
            raise ValueError(f"low ({self.low:g}) must be below warn_at ({self.warn_at:g})")
        if self.low < 0:
            raise ValueError("nothing is below zero: mend low or warn_at")
        return self


class Machine(StrictModel):
    name: str
    shape: Annotated[Circle | Square, Field(discriminator="kind")] | None = None
    size: int | bool = 1
    part: Part | None = None
    gauge: Gauge | None = None
    parts: tuple[Part, ...] = ()
    pair: tuple[float, float] = (0.9, 0.95)
    named: dict[str, Part] = {}
    rate: float = 0.0
    mode: Literal["fast", "slow"] = "fast"

    @model_validator(mode="after")
    def _fields_agree(self) -> Machine:
        if self.rate and self.mode == "slow":
            raise ValueError("part.count: a slow machine has no rate")
        if self.rate and self.size is True:
            raise ValueError("size and rate do not agree: choose one")
        return self


def read(tmp_path: Path, text: str) -> Machine:
    file = tmp_path / "machine.yaml"
    file.write_text(text, encoding="utf-8")
    return load_yaml(file, Machine)


WRONG: list[tuple[str, str, str, str, str]] = [
    # what is wrong, the file, line and field, what is said of it, the remedy
    ("unknown key", "name: a\nmood: fast\n", "2: mood", "unknown key", "did you mean `mode`?"),
    ("unknown key, nothing near", "name: a\npart:\n  z: 1\n", "3: part.z", "unknown key", "known here: path, count"),
    ("unknown key in a list", "name: a\nparts:\n- count: 1\n- cuont: 1\n", "4: parts[1].cuont", "unknown", "`count`?"),
    ("unknown key in a mapping", "name: a\nnamed: {k: {m: 1}}\n", "2: named.k.m", "unknown key", "path, count"),
    ("unknown key of a union", "name: a\nshape: {kind: square, side: 1, sid: 1}\n", "2: shape.sid", "unknown", "side"),
    ("missing", "mode: fast\n", "1: name", "required", "add `name:`"),
    ("missing deep down", "name: a\nshape:\n  kind: square\n", "2: shape.side", "required", "add `side:`"),
    ("no discriminator", "name: a\nshape:\n  side: 1\n", "2: shape.kind", "required", "add `kind:`"),
    (
        "wrong discriminator",
        "name: a\nshape: {kind: hexagon}\n",
        "2: shape.kind",
        "should be one of 'circle'",
        "correct",
    ),
    ("type in a union", "name: a\nshape: {kind: circle, radius: -1}\n", "2: shape.radius", "found -1", "correct"),
    ("wrong type", "name: a\nrate: quick\n", "2: rate", "should be a valid number, found 'quick'", "correct"),
    ("out of range", "name: a\npart: {count: -1}\n", "2: part.count", "greater than or equal to 0", "correct"),
    ("not one of", "name: a\nmode: middling\n", "2: mode", "'fast' or 'slow', found 'middling'", "correct"),
    ("no branch fits", "name: a\nsize: big\n", "2: size", "found 'big'", "correct"),
    ("yes for a number", "name: a\nrate: yes\n", "2: rate", "should be a number, found true", "correct"),
    (
        "yes for a number in a tuple",
        "name: a\npair: [1, on]\n",
        "2: pair[1]",
        "should be a number, found true",
        "correct",
    ),
    ("no for a number deep down", "name: a\nnamed: {k: {count: no}}\n", "2: named.k.count", "found false", "correct"),
    ("true in a union", "name: a\nshape: {kind: square, side: true}\n", "2: shape.side", "found true", "correct"),
    ("not finite", "name: a\nrate: .nan\n", "2: rate", "finite number", "correct"),
    ("scalar for a mapping", "name: a\npart: 3\n", "2: part", "should be a mapping of fields, found 3", "correct"),
    ("scalar for a list", "name: a\nparts: 3\n", "2: parts", "should be a list, found 3", "correct"),
    ("too many in a tuple", "name: a\npair: [1, 2, 3]\n", "2: pair", "at most 2 items", "correct"),
    ("too few in a tuple", "name: a\npair: [1]\n", "2: pair", "has no item 2, found [1]", "add it"),
    (
        "an empty list",
        "name: a\ngauge: {names: []}\n",
        "2: gauge.names",
        "should have at least 1 item, found []",
        "correct",
    ),
    ("wrong type in a tuple", "name: a\npair: [1, x]\n", "2: pair[1]", "found 'x'", "correct"),
    ("yes read as true", "name: yes\n", "1: name", "should be a string, found true", "quotes"),
    ("number for a string", "name: 3\n", "1: name", "found 3", "quotes"),
    ("date for a string", "name: 2026-01-01\n", "1: name", "found 2026-01-01", "correct"),
    ("nothing given", "name:\n", "1: name", "found nothing", "correct"),
    ("number as key", "name: a\n1: b\n", "2: 1", "keys should be strings", "correct"),
    ("key twice", "name: a\nmode: fast\nname: b\n", "3: name", "given twice", "keep one"),
    ("key twice deep down", "name: a\npart:\n  count: 1\n  count: 2\n", "4: part.count", "given twice", "keep one"),
    ("tab", "name: a\n\tmode: fast\n", "2", "not valid YAML", "spaces, not tabs"),
    ("open bracket", "name: [a\n", "2", "not valid YAML", "mend the syntax"),
    ("alias of nothing", "name: a\npart: *p\n", "2", "undefined alias", "mend the syntax"),
    ("list as key", "? [a]\n: b\n", "1", "not valid YAML", "mend the syntax"),
    ("control character", "name: a\nmode: \x00\n", "2", "not valid YAML", "mend the syntax"),
    ("Python object", "name: !!python/object:os.system x\n", "1", "could not determine a constructor", "mend"),
    ("two documents", "name: a\n---\nname: b\n", "2", "another document", "mend the syntax"),
    ("empty", "", "1", "is empty", "name: ..."),
    ("comments only", "# nothing yet\n", "1", "is empty", "name: ..."),
    ("a list at the top", "- name: a\n", "1", "is not a mapping", "name: ..."),
    ("a word at the top", "hello\n", "1", "is not a mapping", "name: ..."),
]


@pytest.mark.parametrize(("text", "place", "found", "remedy"), [row[1:] for row in WRONG], ids=[r[0] for r in WRONG])
def test_a_mistake_is_told_with_file_line_field_and_remedy(
    tmp_path: Path, text: str, place: str, found: str, remedy: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, text)
    first, *_, last = str(refused.value).splitlines()
    assert first.startswith(f"{tmp_path}/machine.yaml:{place}: ")
    assert found in first
    assert last.startswith("  -> ")
    assert remedy in last


NO_LINE: list[tuple[str, str, str]] = [
    ("a date that does not exist", "name: 2026-13-45\n", "month must be in 1..12"),
    ("an alias that holds itself", "name: a\npart: &p\n  x: *p\n", "holds itself"),
    ("nested too deep", "name: " + "[" * 2000, "nested too deep"),
    ("a number too long", "name: a\nrate: 1" + "0" * 5000, "4300 digits"),
]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\nrate: 1\npart:\n  count: 2\nmode: slow\n", ":4: part.count: a slow machine has no rate\n"),
        ("name: a\nrate: 1\npart: {}\nmode: slow\n", ":3: part.count: a slow machine has no rate\n"),
        ("name: a\nrate: 1\nmode: slow\n", ":1: document: part.count: a slow machine has no rate\n"),
        ("name: a\nrate: 1\nsize: true\n", ":1: document: size and rate do not agree: choose one\n"),
    ],
)
def test_what_several_fields_make_wrong_is_told_at_the_first_without_the_whole_file(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert str(caught.value).partition("machine.yaml")[2] == said + "  -> correct the value"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\ngauge:\n  warn_at: 1\n  low: 2\n", ":4: gauge.low: low (2) must be below warn_at (1)\n"),
        ("name: a\ngauge:\n  warn_at: -1\n", ":3: gauge.warn_at: low (0) must be below warn_at (-1)\n"),
        (
            "name: a\ngauge:\n  warn_at: 1\n  low: -1\n",
            ":3: gauge.warn_at: nothing is below zero: mend low or warn_at\n",
        ),
        ("name: a\ngauge:\n  names: [3]\n", ":3: gauge.names[0]: should be a string, found 3\n"),
    ],
)
def test_what_fields_of_a_section_make_wrong_is_told_at_one_of_them_without_the_section(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert str(caught.value).partition("machine.yaml")[2].startswith(said + "  -> ")


@pytest.mark.parametrize(("text", "found"), [row[1:] for row in NO_LINE], ids=[row[0] for row in NO_LINE])
def test_what_breaks_the_reader_is_told_with_the_file(tmp_path: Path, text: str, found: str) -> None:
    with pytest.raises(ConfigError, match=found) as refused:
        read(tmp_path, text)
    assert refused.value.where == f"{tmp_path}/machine.yaml"


def test_nested_aliases_do_not_fill_the_memory(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    with pytest.raises(ConfigError, match="nest fewer aliases"):
        read(tmp_path, "\n".join(lines))


def test_every_problem_has_a_line_of_its_own_in_the_files_order(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, "nmae: a\nmode: 1\nrate: x\n")
    *problems, remedies = str(refused.value).splitlines()
    assert [problem.split(": ")[1] for problem in problems] == ["name", "nmae", "mode", "rate"]
    assert "add `name:`; did you mean `name`?" in remedies


def test_a_file_that_is_not_there_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").write_text("name: a\n")
    with pytest.raises(ConfigError, match=r"quickstrat.yaml: no such file\n  -> did you mean .*/quickstart.yaml\?"):
        load_yaml(tmp_path / "quickstrat.yaml", Machine)
    with pytest.raises(ConfigError, match="give the path of an existing YAML file"):
        load_yaml(tmp_path / "absent" / "other.yaml", Machine)


def test_what_is_no_text_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"mode: fast\nname: \xe9\n")
    with pytest.raises(ConfigError, match=r"latin.yaml:2: cannot be read: is not UTF-8"):
        load_yaml(tmp_path / "latin.yaml", Machine)
    with pytest.raises(ConfigError, match="Is a directory"):
        load_yaml(tmp_path, Machine)
    with pytest.raises(ConfigError, match="null byte"):
        load_yaml("a\0b", Machine)


def test_anchors_merges_exponents_and_a_byte_order_mark_are_fine(tmp_path: Path) -> None:
    machine = read(tmp_path, "\ufeffname: a\npart: &p {count: 3}\nparts: [{<<: *p, path: b}]\nrate: 3e-5\n")
    assert machine.parts[0].count == 3
    assert machine.rate == 3e-5


def test_paths_are_relative_to_the_file_and_uris_stay(tmp_path: Path) -> None:
    machine = read(tmp_path, "name: a\nparts: [{path: ../x}, {path: s3://bucket/x}, {path: /y}, {path: ~/z}]\n")
    found = [part.path for part in machine.parts]
    assert found == [str(tmp_path.parent / "x"), "s3://bucket/x", "/y", str(Path.home() / "z")]


def test_models_are_frozen_and_replace_validates() -> None:
    part = Part(count=2)
    assert part.replace(count=3).count == 3
    with pytest.raises(ValidationError):
        part.replace(count=-1)
    with pytest.raises(ValidationError):
        part.count = 5  # type: ignore[misc]


def test_home_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SERINUS_HOME", str(tmp_path))
    assert home() == tmp_path
    monkeypatch.delenv("SERINUS_HOME")
    assert home() == Path.home() / ".serinus"
