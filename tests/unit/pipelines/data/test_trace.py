"""A document from its bytes in a file to the alias of a model, and out again when somebody asks for it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster import artifacts, registry
from cluster.artifacts import Dataset, Record
from cluster.errors import InputError, UserError
from cluster.storage import LocalStorage
from pipelines.config import DataConfig, ProtectConfig, SourceConfig
from pipelines.data import ledger, tell
from pipelines.data.forget import Forgotten, forget
from pipelines.data.history import versions
from pipelines.data.record import parts, read_table
from pipelines.data.trace import trace
from serinus import app
from tests.unit.pipelines.data.world import FILTERS, TEXTS, config, make, train
from tests.unit.test_check import GOOD

EARLY, LATE = datetime(2026, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve documents; a copy of the second behind them, one that is too short, one that is torn, and a page."""
    folder = tmp_path / "docs"
    folder.mkdir()
    lines = [json.dumps({"text": text}) for text in [*TEXTS, f" {TEXTS[1]} ", "too short"]]
    (folder / "a.jsonl").write_text("\n".join([*lines, '{"torn']))
    (folder / "page.txt").write_text("write to bob@example.org about the page on canaries and how they sang [1] there")
    return folder


def settings(folder: Path) -> DataConfig:
    return config(folder, protect=ProtectConfig(email="mask"), dedup={"near": False})


def split_of(storage: LocalStorage, dataset: Dataset) -> dict[str, str]:
    return {name: path for path, table in parts(storage, dataset, ("id",)) for name in table["id"].to_pylist()}


def trained_and_heldout(storage: LocalStorage, dataset: Dataset) -> tuple[str, str]:
    placed = split_of(storage, dataset)
    return next(n for n, p in placed.items() if p.startswith("train/")), next(
        n for n, p in placed.items() if p.startswith("heldout/")
    )


def out_of(storage: LocalStorage, name: str, version: Dataset | None = None, at: datetime = LATE) -> Forgotten:
    return forget(storage, name, version, "ann", at)


def test_every_document_is_on_record_with_the_bytes_it_came_from(storage: LocalStorage, folder: Path) -> None:
    dataset = make(storage, settings(folder))
    content = (folder / "a.jsonl").read_bytes()
    fates = {name: trace(storage, name).fates[0] for name in split_of(storage, dataset)}
    assert len(fates) == dataset.num_documents == 16
    for name, fate in fates.items():
        assert fate.span is not None
        if name != "docs/page.txt":
            line = content[slice(*fate.span)]
            assert line.rstrip(b"\n") == content.splitlines()[fate.position - 1]
        shard = read_table(storage, f"{dataset.location}/{fate.shard}")
        assert shard["id"][fate.row].as_py() == name
    page = fates["docs/page.txt"]
    assert page.changed_by == ("strip_bracketed_references", "protect")
    assert (page.num_characters_in, page.num_characters) == (79, 67)
    assert (fates["docs/a.jsonl#13"].reason, fates["docs/a.jsonl#13"].instead) == ("exact_duplicate", "docs/a.jsonl#2")
    assert fates["docs/a.jsonl#14"].reason == "too_few_words"
    assert fates["docs/a.jsonl#15"].reason == "broken_json"
    record = artifacts.load(storage, Record, dataset.key)
    assert record is not None
    assert record.inputs == {"dataset": dataset.digest}
    assert [file.path for file in record.files] == [batch.path for batch in dataset.batches]


def test_who_has_seen_a_document_depends_on_its_split(storage: LocalStorage, folder: Path) -> None:
    dataset = make(storage, settings(folder))
    checkpoint, quantized, revision = train(storage, dataset)
    kept, held = trained_and_heldout(storage, dataset)
    assert [model.key for model in trace(storage, kept).fates[0].seen_by.models] == [
        checkpoint.key, quantized.key, revision.key,
    ]  # fmt: skip
    assert (trace(storage, held).fates[0].seen_by.models, len(trace(storage, held).fates[0].seen_by.evaluations)) == (
        (),
        1,
    )
    assert trace(storage, "docs/a.jsonl#14").fates[0].seen_by.models == ()
    copy = trace(storage, "docs/a.jsonl#13").fates[0]
    assert bool(copy.seen_by.models) == split_of(storage, dataset)["docs/a.jsonl#2"].startswith("train/")
    registry.move_aliases(storage, "m", {"stable": revision.revision, "candidate": None})
    lines = list(tell.trace_lines(trace(storage, kept)))
    assert lines[-1].split("  ")[-1] == "[STABLE  was candidate]" or lines[-1].endswith("[STABLE  was candidate]")
    assert any(f"{revision.revision}" in line for line in lines)
    assert any("no model: it was held out; 1 evaluation(s)" in line for line in tell.trace_lines(trace(storage, held)))


def test_the_beginning_of_an_id_will_do_where_there_is_one(storage: LocalStorage, folder: Path) -> None:
    make(storage, settings(folder))
    assert trace(storage, "docs/p").id == "docs/page.txt"
    assert trace(storage, "docs/a.jsonl#1").id == "docs/a.jsonl#1"  # though #10 begins so
    with pytest.raises(InputError, match=r"could be docs/a.jsonl#1, docs/a.jsonl#10, docs/a.jsonl#11 and 12 more"):
        trace(storage, "docs/a")
    with pytest.raises(InputError, match=r"did you mean docs/page.txt\?"):
        trace(storage, "doc/page.text")


def test_what_an_earlier_serinus_made_is_traced_as_far_as_its_shards_tell(storage: LocalStorage, folder: Path) -> None:
    dataset = make(storage, settings(folder))
    artifacts.retire(storage, Record(key=dataset.key))
    fate = trace(storage, "docs/a.jsonl#14").fates[0]
    assert (fate.recorded, fate.reason, fate.position, fate.span) == (False, "too_few_words", 14, None)
    assert any("not on record" in line for line in tell.trace_lines(trace(storage, "docs/page.txt")))
    done = out_of(storage, "docs/page.txt")
    assert (done.now, done.already) == (None, False)
    again = make(storage, settings(folder))  # what `serinus run` does
    assert again.num_excluded_by_reason["forgotten"] == 1


@pytest.mark.parametrize(
    "names", [["docs/page.txt"], ["docs/a.jsonl#14"], ["docs/a.jsonl#2", "docs/page.txt", "docs/a.jsonl#15"]]
)
def test_forgetting_makes_what_cleaning_without_the_document_makes(
    tmp_path: Path, folder: Path, names: Sequence[str]
) -> None:
    made, cleaned = LocalStorage(tmp_path / "made"), LocalStorage(tmp_path / "cleaned")
    before = make(made, settings(folder))
    for name in names:
        done = out_of(made, name)
    for name in names:
        ledger.add(cleaned, ledger.Entry(id=name, source=trace(made, name).fates[0].source, who="", at=EARLY))
    after = make(cleaned, settings(folder))

    assert done.now == after.key != before.key
    forgotten = artifacts.load(made, Dataset, after.key)
    assert forgotten is not None
    assert forgotten.digest == after.digest
    assert artifacts.load(made, Record, after.key).digest == artifacts.load(cleaned, Record, after.key).digest  # type: ignore[union-attr]
    assert make(made, settings(folder)) == forgotten  # the next run of the recipe finds it
    assert after.num_documents == before.num_documents == after.num_kept + after.num_excluded
    assert after.num_excluded_by_reason["forgotten"] == len(names)
    for path in (made.root / after.location).rglob("*"):
        assert not path.is_file() or "bob" not in path.name
    assert artifacts.load(made, Dataset, before.key) == before


def test_the_forgotten_text_is_nowhere_in_the_new_version(storage: LocalStorage, folder: Path) -> None:
    before = make(storage, settings(folder))
    done = out_of(storage, "docs/page.txt")
    assert done.now
    after = artifacts.load(storage, Dataset, done.now)
    assert after is not None
    for dataset, holds in ((before, True), (after, False)):
        texts = [
            t for b in dataset.batches for t in read_table(storage, f"{dataset.location}/{b.path}")["text"].to_pylist()
        ]
        assert any("on canaries" in text for text in texts) == holds
    row = trace(storage, "docs/page.txt").fates[0]
    assert (row.reason, row.changed_by, row.num_characters, row.language) == ("forgotten", (), 0, "")
    assert after.num_protected_by_kind == {}
    assert after.num_characters_kept == before.num_characters_kept - 67


def test_forgetting_twice_changes_nothing_and_names_the_same_models(storage: LocalStorage, folder: Path) -> None:
    dataset = make(storage, settings(folder))
    train(storage, dataset)
    kept, held = trained_and_heldout(storage, dataset)
    first = out_of(storage, kept, at=datetime.now(UTC))
    files = sorted(storage.list("artifacts")), ledger.read(storage)
    second = out_of(storage, kept)
    assert (sorted(storage.list("artifacts")), ledger.read(storage)) == files
    assert (first.already, second.already) == (False, True)
    assert first.now == second.now
    assert first.seen_by == second.seen_by
    assert len(first.seen_by.models) == 3
    assert second.still_in == (dataset.key,)
    assert out_of(storage, kept, dataset).already
    assert "nothing was changed" in "\n".join(tell.forget_lines(second))
    unseen = out_of(storage, held)
    assert (unseen.seen_by.models, len(unseen.seen_by.evaluations)) == ((), 1)


def test_blocks_of_interrupted_cleanings_are_named(storage: LocalStorage, folder: Path) -> None:
    dataset = make(storage, settings(folder))
    kept, _ = trained_and_heldout(storage, dataset)
    assert out_of(storage, kept).interrupted == ()
    for number in range(2):
        storage.write(f"runs/clean/abc/blocks/d/{number:05d}.arrow", b"")
    done = out_of(storage, kept)
    assert done.interrupted == ("abc",)
    assert "blocks of cleanings under way or interrupted, abc" in "\n".join(tell.forget_lines(done))


def test_a_forgetting_that_was_killed_goes_on_with_the_same_command(
    storage: LocalStorage, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = make(storage, settings(folder))
    with monkeypatch.context() as patch:
        patch.setattr("pipelines.data.forget.save_both", lambda *_: sys.exit("killed"))
        with pytest.raises(SystemExit):
            out_of(storage, "docs/page.txt")
    assert versions(storage).found == [before]
    done = out_of(storage, "docs/page.txt", at=datetime.now(UTC))
    assert (done.already, len(versions(storage).found), len(ledger.read(storage))) == (False, 2, 1)
    assert done.now == make(storage, settings(folder)).key


ALONE = """
import sys
from serinus import app
app(["data", "trace", "docs/page.txt", "--recipe", sys.argv[1]], standalone_mode=False)
others = {"ray", "torch", "pandas", "scipy", "numba", "pyarrow.compute", "pyarrow.dataset", "pipelines.config", "rich"}
heavy = others & sys.modules.keys()
assert not heavy, heavy
"""


def test_a_trace_imports_nothing_heavy_and_so_takes_less_than_a_second(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(GOOD)
    make(LocalStorage(tmp_path / "store"), settings(folder))
    command = [sys.executable, "-c", ALONE, str(tmp_path / "recipe.yaml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "bytes 0 to 79" in done.stdout


def test_after_a_version_without_it_models_made_of_that_one_need_no_training(
    storage: LocalStorage, folder: Path
) -> None:
    dataset = make(storage, settings(folder))
    kept, _ = trained_and_heldout(storage, dataset)
    done = out_of(storage, kept)
    assert done.now
    after = artifacts.load(storage, Dataset, done.now)
    assert after is not None
    train(storage, after)
    assert out_of(storage, kept).seen_by.models == ()
    assert trace(storage, kept).fates[0].seen_by.models == ()


def test_copies_and_the_one_that_stands_for_it_are_named(storage: LocalStorage, folder: Path) -> None:
    make(storage, settings(folder))
    assert out_of(storage, "docs/a.jsonl#13").instead == "docs/a.jsonl#2"
    done = out_of(storage, "docs/a.jsonl#2")
    assert done.copies == ("docs/a.jsonl#13",)
    newest = versions(storage).found[-1]
    assert newest.num_excluded_by_reason["forgotten"] == 2


def test_a_forgotten_document_stays_out_under_other_recipes_but_its_like_elsewhere_does_not(
    tmp_path: Path, storage: LocalStorage, folder: Path
) -> None:
    make(storage, settings(folder))
    out_of(storage, "docs/page.txt")
    other = make(storage, config(folder, filters=FILTERS.replace(max_words=50)))
    assert other.num_excluded_by_reason["forgotten"] == 1
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "page.txt").write_text(TEXTS[0])
    assert "forgotten" not in make(storage, config(elsewhere)).config


def test_an_id_that_the_document_brings_along_is_forgotten_in_every_file(tmp_path: Path, storage: LocalStorage) -> None:
    for day in ("monday", "tuesday"):
        (tmp_path / day).mkdir()
        rows = [json.dumps({"id": f"user-{i}", "text": TEXTS[i]}) for i in range(4)]
        (tmp_path / day / f"{day}.jsonl").write_text("\n".join(rows))

    def of(day: str) -> DataConfig:
        return config(tmp_path / day).replace(sources=(SourceConfig(path=str(tmp_path / day), id_field="id"),))

    make(storage, of("monday"))
    out_of(storage, "user-2")
    tuesday = make(storage, of("tuesday"))
    assert trace(storage, "user-2", tuesday).fates[0].reason == "forgotten"


def test_what_cannot_be_forgotten_is_one_message_and_leaves_no_entry(tmp_path: Path, storage: LocalStorage) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "a.txt").write_text(TEXTS[0])
    make(storage, config(alone))
    with pytest.raises(InputError, match="nothing would be left"):
        out_of(storage, "alone/a.txt")
    with pytest.raises(InputError, match=r"did you mean alone/a.txt\?"):
        out_of(storage, "alone/a")  # the beginning will not do here
    with pytest.raises(InputError, match="is in none of 1 version"):
        out_of(storage, "nobody")
    assert ledger.read(storage) == ()


def test_the_commands_as_a_user_types_them(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(GOOD)
    storage = LocalStorage(tmp_path / "store")

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["data", *arguments, "--recipe", str(tmp_path / "recipe.yaml")])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0
        return result.output

    assert run("log") == "no dataset yet: serinus run RECIPE\n"
    assert run("log", "--json") == "[]\n"
    dataset = make(storage, settings(folder))
    train(storage, dataset)
    assert dataset.key in run("log")
    assert f"digest      {dataset.digest}" in run("show")
    assert json.loads(run("show", dataset.key[:6], "--json"))["made_of_it"]["models"][0]["how"] == "trained on it"
    assert "bytes 0 to 79, line, row, element or record 1" in run("trace", "docs/page.txt")
    assert json.loads(run("trace", "docs/p", "--json"))["fates"][0]["span"] == [0, 79]
    assert "is forgotten: version" in run("forget", "docs/page.txt")
    assert json.loads(run("forget", "docs/page.txt", "--json"))["already"] is True
    assert "1 kept before, excluded now\n    docs/page.txt: forgotten" in run("diff")
    assert json.loads(run("diff", "--json"))["documents"] == {"kept before, excluded now": 1}
    assert '  forgotten: none -> ["docs/page.txt"]' in run("diff")
    rows = [json.dumps({"id": "\x1b[2J\n", "text": TEXTS[0]}), json.dumps({"id": "x", "text": TEXTS[1]})]
    (folder / "a.jsonl").write_text("\n".join(rows))
    make(storage, settings(folder).replace(sources=(SourceConfig(path=str(folder), id_field="id"),)))
    assert run("trace", "\x1b").startswith("\ufffd[2J\ufffd\n")  # a document's id moves no cursor
    for wrong in (["show", "zz"], ["diff", "zz"], ["trace", "nobody"], ["forget", "nobody"], ["trace", "docs"]):
        with pytest.raises(InputError):
            run(*wrong)


# --- against earlier versions -----------------------------------------------------------------------------------------


def batch_of(tmp_path: Path, name: str, texts: Sequence[str]) -> Path:
    (tmp_path / name).mkdir()
    (tmp_path / name / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return tmp_path / name


def test_what_an_earlier_version_keeps_is_a_duplicate_in_a_later_one(tmp_path: Path, storage: LocalStorage) -> None:
    long = [" ".join(f"{word}{i}" for i in range(80)) for word in ("coal", "lamp", "bird", "wire")]
    first = make(storage, config(batch_of(tmp_path, "monday", [*TEXTS[:3], long[0], "too short"])))
    train(storage, first)
    days = [" " + TEXTS[1], long[0].upper() + " once more", TEXTS[7], TEXTS[7], "too short", long[1]]
    tuesday = batch_of(tmp_path, "tuesday", days)
    against = {"against": [first.key[:6]]}

    second = make(storage, config(tuesday, dedup=against, filters=FILTERS.replace(min_words=2), heldout_fraction=0.0))

    fates = {i: trace(storage, f"tuesday/a.jsonl#{i}", second).fates[0] for i in range(1, 7)}
    told = {i: (fate.reason, fate.detail) for i, fate in fates.items()}
    assert told == {
        1: ("exact_duplicate", f"of monday/a.jsonl#2 in version {first.key}"),
        2: ("near_duplicate", f"of monday/a.jsonl#4 in version {first.key}"),
        3: ("", ""),
        4: ("exact_duplicate", "of tuesday/a.jsonl#3"),
        5: ("", ""),  # what the earlier one excluded it does not hold
        6: ("", ""),
    }
    assert (fates[1].instead, fates[1].instead_in) == ("monday/a.jsonl#2", first.key)
    assert bool(fates[1].seen_by.models) == split_of(storage, first)["monday/a.jsonl#2"].startswith("train/")
    assert second.config["dedup"]["against"] == [first.key]
    third = batch_of(tmp_path, "wednesday", [TEXTS[7], TEXTS[0], TEXTS[9]])
    both = make(storage, config(third, dedup={"against": [second.key, first.digest]}, heldout_fraction=0.0))
    assert both.num_excluded_by_reason == {"exact_duplicate": 2}
    assert "against" not in make(storage, config(third)).config["dedup"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ngram": 4}, r"made with ngram 5, here it is 4"),
        ({"against": ["ffff"]}, "no dataset in"),
        ({"near": False}, ""),
    ],
)
def test_only_versions_with_the_same_signatures_are_compared(
    tmp_path: Path, storage: LocalStorage, changes: dict[str, object], says: str
) -> None:
    docs = batch_of(tmp_path, "docs", TEXTS[:2])
    first = make(storage, config(docs))
    settings = config(batch_of(tmp_path, "more", TEXTS[1:3]), dedup={"against": [first.key], **changes})
    if not says:
        assert make(storage, settings).num_excluded_by_reason == {"exact_duplicate": 1}
        return
    with pytest.raises(UserError, match=says):
        make(storage, settings)
    artifacts.retire(storage, Record(key=first.key))
    with pytest.raises(InputError, match="has no record" if "against" not in changes else "no dataset"):
        make(storage, settings)


def test_signatures_of_an_earlier_serinus_are_not_compared(
    tmp_path: Path, storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr("pipelines.data.recorded.VERSION", 4)
        first = make(storage, config(batch_of(tmp_path, "docs", TEXTS[:2])))
    more = batch_of(tmp_path, "more", TEXTS[1:3])
    with pytest.raises(UserError, match="made by an earlier serinus"):
        make(storage, config(more, dedup={"against": [first.key]}))
    made = make(storage, config(more, dedup={"against": [first.key], "near": False}))
    assert made.num_excluded_by_reason == {"exact_duplicate": 1}
