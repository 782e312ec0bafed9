"""Two runs that make the same version: by the same libraries they may, by others they are told, and one manifest is in force."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import ftfy
import pytest

from cluster.artifacts import Dataset, FileEntry, Record, commit, load, retire
from cluster.errors import ResourceError, StageFailed
from cluster.storage import LocalStorage
from pipelines.data import claim
from pipelines.data.record import save_both
from pipelines.data.shards import remove_leftovers
from tests.unit.pipelines.data import world

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_runs_with_the_same_libraries_may_write_at_the_same_time(storage: LocalStorage) -> None:
    claim.claim(storage, "k", NOW)
    claim.claim(storage, "k", NOW)


def test_a_run_with_other_libraries_is_refused_while_one_is_at_work(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim.claim(storage, "k", NOW)
    ours = claim.written_with()
    monkeypatch.setattr(claim, "written_with", lambda: "serinus 9, pyarrow 99")
    with pytest.raises(
        ResourceError, match=rf"a run with {ours} began .* 2026-01-01 00:00 UTC(.|\n)*remove runs/clean/k"
    ):
        claim.claim(storage, "k", NOW + timedelta(hours=23))
    claim.claim(storage, "k", NOW + timedelta(hours=25))  # taken for dead
    monkeypatch.undo()
    with pytest.raises(ResourceError, match="a run with serinus 9, pyarrow 99"):
        claim.claim(storage, "k", NOW + timedelta(hours=26))


def test_what_reads_and_judges_texts_is_written_with_too_and_what_differs_is_told(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that the stage imports from elsewhere and that decides over a text."""
    ours = claim.written_with().split(", ")
    assert [
        name for name in ("pyarrow", "Unicode", *claim.DECIDING_PACKAGES) if f"{name} " not in "\n".join(ours)
    ] == []
    assert f"ftfy {ftfy.__version__}" in ours
    claim.claim(storage, "k", NOW)
    found = claim.version
    monkeypatch.setattr(claim, "version", lambda name: "99" if name == "ftfy" else found(name))
    with pytest.raises(ResourceError, match=rf"a run with ftfy {re.escape(ftfy.__version__)} began"):
        claim.claim(storage, "k", NOW)


def test_a_claim_of_an_earlier_serinus_is_told_whole(storage: LocalStorage) -> None:
    mine = claim.written_with().split(", ")[0]
    storage.write("runs/clean/k/claim.json", claim.Claim(written_with=mine, at=NOW).model_dump_json().encode())
    with pytest.raises(ResourceError, match=f"a run with {mine} began"):
        claim.claim(storage, "k", NOW)


def test_a_version_that_is_made_may_be_made_again_by_other_libraries(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim.claim(storage, "k", NOW)
    claim.release(storage, "k")
    monkeypatch.setattr(claim, "written_with", lambda: "serinus 9, pyarrow 99")
    claim.claim(storage, "k", NOW)


def test_a_run_that_makes_a_version_again_is_at_work_like_the_first(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim.claim(storage, "k", NOW)
    claim.release(storage, "k")
    claim.claim(storage, "k", NOW)  # of a version that was retired
    claim.claim(storage, "k", NOW + timedelta(hours=23))  # goes on where one was killed
    claim.claim(storage, "k", NOW)  # a clock that is slow takes nothing back
    monkeypatch.setattr(claim, "written_with", lambda: "serinus 9, pyarrow 99")
    for hours in (0, 25):
        with pytest.raises(ResourceError, match="2026-01-01 23:00 UTC"):
            claim.claim(storage, "k", NOW + timedelta(hours=hours))


def test_a_claim_lost_on_the_way_is_looked_at_again(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    other = claim.Claim(written_with="serinus 9, pyarrow 99", at=NOW)
    read = storage.read

    def read_then_lose(name: str) -> object:
        found = read(name)
        if found is None:
            storage.write(name, other.model_dump_json().encode())
        return found

    monkeypatch.setattr(storage, "read", read_then_lose)
    with pytest.raises(ResourceError, match="serinus 9"):
        claim.claim(storage, "k", NOW)


def test_the_first_manifest_stays_in_force_until_it_is_retired(storage: LocalStorage) -> None:
    first, won = commit(storage, Dataset(key="k", took_s=1))
    assert won
    assert commit(storage, Dataset(key="k", took_s=2)) == (first, False)
    retire(storage, first)
    again, won = commit(storage, Dataset(key="k", took_s=3))
    assert won
    assert load(storage, Dataset, "k") == again != first


def test_the_loser_gets_the_winners_dataset_and_what_is_not_the_same_is_told(storage: LocalStorage) -> None:
    first = save_both(storage, Dataset(key="k", num_train=1), [])
    assert save_both(storage, Dataset(key="k", num_train=1), []) == first
    with pytest.raises(StageFailed, match="another run has made this version otherwise"):
        save_both(storage, Dataset(key="k", num_train=2), [])
    assert load(storage, Dataset, "k") == first


def test_a_retired_version_is_made_again_by_a_later_serinus(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = save_both(storage, Dataset(key="k", num_train=1), [])
    retire(storage, first)
    monkeypatch.setattr("pipelines.data.record.VERSION", "9")
    again = save_both(storage, Dataset(key="k", num_train=1), [])
    record = load(storage, Record, "k")
    assert record is not None
    assert (again.made_by, record.inputs) == ("serinus 9", {"dataset": again.digest})


def test_leftovers_go_and_what_the_manifest_tells_stays(storage: LocalStorage) -> None:
    made, _ = commit(storage, Dataset(key="k", files=(FileEntry(path="train/0", num_bytes=1, sha256=""),)))
    for name in ("train/0", "train/1", "excluded/x"):
        storage.write(f"{made.location}/{name}", b"1")
    remove_leftovers(storage, made)
    assert [*storage.list(made.location)] == [f"{made.location}/{name}" for name in ("manifest.json", "train/0")]


def test_a_version_under_way_is_not_torn_down_by_another_run(tmp_path: Path, storage: LocalStorage) -> None:
    (tmp_path / "in").mkdir()
    for i, text in enumerate(world.TEXTS[:4]):
        (tmp_path / "in" / f"{i}.txt").write_text(text)
    settings = world.config(tmp_path / "in")
    made = world.make(storage, settings)
    before = {name: storage.read(name) for name in storage.list(made.location)}
    retire(storage, made)
    stage_target = world.stage.target_of(world.prepare(settings, storage), storage)  # another one begins
    assert stage_target.folder.endswith(made.location)
    assert {name: storage.read(name) for name in before if not name.endswith("manifest.json")} == {
        name: blob for name, blob in before.items() if not name.endswith("manifest.json")
    }
    assert world.make(storage, settings).digest == made.digest
