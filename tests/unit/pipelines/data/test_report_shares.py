"""Shares that the recipe asks for, beside those that are there: what is missing, and what it takes to make it good."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.storage import LocalStorage
from pipelines.config.data import SharesConfig, TopicConfig
from pipelines.data.report import shares as report_shares
from pipelines.data.report.first import findings
from pipelines.data.report.page import page
from pipelines.data.report.report import Report, report
from pipelines.data.report.shares import Text, missing
from tests.unit.pipelines.data.world import TEXTS, config, make


@pytest.mark.parametrize(
    ("wanted", "have", "total", "found"),
    [
        ({"de": 0.2}, {"de": 30}, 100, {"de": 0}),
        ({"de": 0.5}, {"de": 20}, 100, {"de": 60}),  # 80 of 160
        ({"de": 0.25, "fr": 0.25}, {"de": 0, "fr": 0}, 100, {"de": 50, "fr": 50}),
        ({"en": 0.5, "de": 0.25}, {"en": 60, "de": 0}, 100, {"en": 20, "de": 40}),  # German makes English too little
        ({"en": 0.5, "de": 0.5}, {"en": 80, "de": 20}, 100, {"en": 0, "de": 60}),  # nothing besides
        ({"en": 0.5, "de": 0.5}, {"en": 80, "de": 10}, 100, {"en": None, "de": None}),  # ten of others are in the way
        ({"en": 1.0}, {"en": 90}, 100, {"en": None}),
        ({"en": 0.0}, {"en": 0}, 0, {"en": 0}),
    ],
)
def test_what_is_missing(
    wanted: dict[str, float], have: dict[str, int], total: int, found: dict[str, int | None]
) -> None:
    told = missing(wanted, have, total)
    assert told == found
    added = {name: num or 0 for name, num in told.items()}
    if None not in found.values() and total:
        whole = total + sum(added.values())
        assert all(have[name] + added[name] >= share * whole - 1 for name, share in wanted.items())


def test_shares_above_the_whole_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"shares of languages add up to 1\.2"):
        SharesConfig(languages={"en": 0.7, "de": 0.5})
    with pytest.raises(ValidationError, match=r"shares of topics add up to 1\.1"):
        SharesConfig(topics={name: TopicConfig(words=("one", "two"), share=0.55) for name in ("a", "b")})
    with pytest.raises(ValidationError, match="language"):
        SharesConfig.model_validate({"language": {}})


def asked(storage: LocalStorage, folder: Path, **shares: Any) -> Report:
    settings = config(folder, dedup={"near": False}, shares=SharesConfig(**shares))
    return report(storage, make(storage, settings), settings)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return folder


def test_each_dimension_is_told_and_another_share_is_no_other_version(storage: LocalStorage, folder: Path) -> None:
    topics = {
        "mining": TopicConfig(words=("canary", "MINE", "lamps"), share=0.9),
        "sport": TopicConfig(words=("team", "cup")),
    }
    found = asked(storage, folder, languages={"en": 0.9, "fr": 0.1}, sources={"docs": 1.0}, domains={"a.org": 0.1},
                  topics=topics, min_characters={64: 1.0, 200: 0.2})  # fmt: skip
    told = {(one.dimension, one.name): (one.found, one.holds, one.num_characters_missing) for one in found.asked}
    total = found.num_characters_kept
    assert told == {
        ("languages", "en"): (1.0, True, 0),
        ("languages", "fr"): (0.0, False, round(total / 9)),
        ("sources", "docs"): (1.0, True, 0),
        ("domains", "a.org"): (0.0, False, round(total / 9)),
        ("topics", "mining"): (1.0, True, 0),
        ("topics", "sport"): (0.0, True, 0),
        ("lengths", "at least 64 characters"): (1.0, True, 0),
        ("lengths", "at least 200 characters"): (0.0, False, round(total / 4)),
    }
    (check,) = [check for check in found.checks if check.ok is False]
    assert check.found == "fr 0 % of 10 %, a.org 0 % of 10 %, at least 200 characters 0 % of 20 %"
    assert findings(found)[0].text == "languages, fr: 0.0 % of 10.0 % asked for"
    assert "MISSING" in page(found)
    without = asked(storage, folder)
    assert (without.version, without.asked) == (found.version, ())
    assert all(check.ok is not False for check in without.checks)


def test_a_share_told_from_a_sample_has_an_interval_and_holds_if_it_may() -> None:
    words = TopicConfig(words=("team", "cup", "match"), share=0.0)
    sample = [Text("the team won the cup" if i % 4 == 0 else "a team of miners", 100) for i in range(400)]
    value, low, high = report_shares._topic_shares({"sport": words}, sample)["sport"]
    half = 1.96 * (0.25 * 0.75 / 400) ** 0.5  # of texts of one length it is the binomial's
    assert (value, low, high) == pytest.approx((0.25, 0.25 - half, 0.25 + half), abs=1e-6)
    none = report_shares._topic_shares({"sport": words}, [Text("of miners", 100)] * 400)["sport"]
    assert none == pytest.approx((0.0, 0.0, 3 / 400))
    assert report_shares._topic_shares({"sport": words}, [])["sport"][0] == 0.0


def test_a_document_is_of_the_topic_of_most_words() -> None:
    vocabulary = {"sport": {"team", "cup", "match"}, "mining": {"lamp", "coal", "team"}}
    texts = {
        "Team, cup; match and a lamp of coal": "sport",
        "coal lamp TEAM": "mining",
        "team cup coal": "sport",
        "teams cups": "",
    }
    assert {text: report_shares._topic_of(text, vocabulary) for text in texts} == texts
