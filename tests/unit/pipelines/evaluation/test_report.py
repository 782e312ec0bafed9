"""The report on a published revision: figures with their digests, nothing from outside unescaped, nothing loaded."""

from __future__ import annotations

import re
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cluster import artifacts
from cluster.artifacts import GateReport, Rate, Revision, Speed
from cluster.errors import InputError
from cluster.storage import Storage, open_storage
from pipelines.evaluation import model_card, report_page
from pipelines.evaluation.judged import last_gate, published_by_others
from pipelines.evaluation.register import shipped
from pipelines.evaluation.report import RunReport, gather, of_revision
from pipelines.evaluation.verdict import find_report
from pipelines.lifecycle import Run
from serinus import app
from tests.unit.pipelines.evaluation.published import EVIL, NAME, publish
from tests.unit.test_check import GOOD

RATES = tuple(Rate(num_requests=num, tokens_per_s=rate) for num, rate in ((1, 25.5), (8, 150.0), (32, 281.2)))


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    made = open_storage(str(tmp_path_factory.mktemp("store")))
    publish(made)
    return made


@pytest.fixture(scope="module")
def found(storage: Storage) -> RunReport:
    return of_revision(storage, NAME, "candidate", shipped())


class Tags(HTMLParser):
    """What a browser would see: tags with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def test_figures_and_where_they_are_from(storage: Storage, found: RunReport) -> None:
    assert [one.model for one in found.scores] == ["base"] * 2 + ["trained"] * 2 + ["quantized"] * 2
    kept = {one.task: one.percent for one in found.recoveries}
    assert kept["answers"] == pytest.approx(100 * 33 / 34)
    assert kept["heldout"] < 100
    assert {s.model: s.num_weight_bytes for s in found.sizes} == {"base": 2000, "trained": 2000, "quantized": 1100}
    made = gather(storage, Revision.model_validate(dict(_top(storage))))
    assert {e.role: e.digest for e in found.evidence if e.kind != "file"} == {k: m.digest for k, m in made.items()}
    files = [e for e in found.evidence if e.kind == "file"]
    assert len(files) == 3
    page = report_page.page(found)
    assert all(e.digest in page and e.path in page for e in found.evidence)


def _top(storage: Storage) -> Revision:
    from cluster import registry

    return registry.resolve(storage, NAME, "candidate")


def test_worst_items_are_those_that_quantizing_lost(found: RunReport) -> None:
    answers = [item for item in found.worst if item.task == "answers"]
    assert [item.id for item in answers] == ["answers-33"]
    assert [(a.model, a.score) for a in answers[0].answers] == [("base", 0), ("trained", 1), ("quantized", 0)]
    assert answers[0].prompt.startswith("What is 33 + 1?")
    page = report_page.page(found)
    assert "What is 33 + 1?" in page
    assert "<small>wanted</small><pre>the right answer</pre>" in page


def test_calibration_is_the_distance_of_sure_and_right(found: RunReport) -> None:
    of = {one.model: one for one in found.calibrations}
    assert list(of) == ["base", "trained", "quantized"]
    assert [(b.num_items, b.accuracy) for b in of["base"].bins] == [(10, 1), (10, 1), (10, 0.4), (10, 0)]
    sure = (0.545, 0.645, 0.745, 0.845)
    wanted = sum(abs(right - said) for right, said in zip((1, 1, 0.4, 0), sure, strict=True)) / 4
    assert of["base"].error == pytest.approx(wanted)
    assert report_page.page(found).count('class="m1 part"') == sum(len(one.bins) for one in found.calibrations)


def test_text_from_outside_is_text(found: RunReport) -> None:
    page = report_page.page(found)
    assert EVIL not in page
    assert "&lt;script&gt;" in page
    tags = Tags(page).seen
    assert not {"script", "img", "iframe", "link", "object"} & {tag for tag, _ in tags}
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]


def test_the_page_loads_nothing(found: RunReport) -> None:
    page = report_page.page(found)
    assert not {"src", "href", "srcset", "action", "style"} & {name for _, at in Tags(page).seen for name in at}
    assert not re.search(r"url\(|@import", page)
    policy = next(at["content"] for tag, at in Tags(page).seen if tag == "meta" and "http-equiv" in at)
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


def test_json_is_the_same_document(found: RunReport, tmp_path: Path) -> None:
    html, document = report_page.write(found, tmp_path / "new")
    assert html.read_text() == report_page.page(found)
    assert RunReport.model_validate_json(document.read_text()) == found


def test_a_changed_items_file_is_refused(tmp_path: Path) -> None:
    changed = open_storage(str(tmp_path))
    publish(changed)
    path = next(tmp_path.glob("artifacts/evaluation/*/items.parquet"))
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(InputError, match="SHA-256 differs"):
        of_revision(changed, NAME, "candidate", ())


def test_how_fast_each_model_is_stands_beside_its_size(found: RunReport) -> None:
    fast = Speed(num_prompt_tokens=128, num_written_tokens=32, rates=RATES, ttft_s=0.1234)
    timed = found.replace(
        sizes=tuple(size.replace(speed=fast if size.model == "quantized" else None) for size in found.sizes)
    )
    page, card = report_page.page(timed), model_card.card(timed)
    assert "<th" in page.partition("<h3>Speed</h3>")[2].partition("25.5")[0]
    assert all(text in page for text in ("tokens/s at 32", ">25.5<", ">150<", ">281<", ">123<"))
    assert fast.summary == "25.5, 150, 281 tokens/s at 1, 8, 32 requests, ttft 123 ms"
    assert fast.summary in card
    assert "<h3>Speed</h3>" not in report_page.page(found)


def test_nothing_on_record_is_said(storage: Storage) -> None:
    page = report_page.page(RunReport(name="x", revision="x-1", outcome=""))
    assert "judged by no gate" in page
    assert page.count("none on record") == 12


def test_an_evaluation_alone_has_no_empty_sections() -> None:
    page = report_page.page(RunReport(name="x", notes=("letters: 3 of 4 answers are empty & <told>",)))
    assert "none on record" not in page
    assert "Training" not in page
    assert "<li>letters: 3 of 4 answers are empty &amp; &lt;told&gt;" in page


def test_the_card(found: RunReport) -> None:
    text = model_card.card(found)
    _, front, body = text.split("---\n", 2)
    data = yaml.safe_load(front)
    (model,) = data["model-index"]
    assert model["name"] == found.revision
    served = {one.score.task: one.score.value for one in found.scores if one.model == "quantized"}
    assert {r["dataset"]["name"]: r["metrics"][0]["value"] for r in model["results"]} == served
    assert "license" not in data
    assert "<script" not in body
    assert all(e.digest in body for e in found.evidence)


def test_as_a_user_types_it(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(re.sub(r"^name: .*", f"name: {NAME}", GOOD, flags=re.M))
    made = publish(open_storage(str(tmp_path / "store")))
    for wanted in (str(recipe), "candidate"):
        out = tmp_path / wanted.replace("/", "-")
        ran = CliRunner().invoke(
            app, ["report", wanted, "--recipe", str(recipe), "--out", str(out)], catch_exceptions=False
        )
        assert ran.exit_code == 0
        assert sorted(p.name for p in out.iterdir()) == [f"report-{made.revision}.html", f"report-{made.revision}.json"]
    ran = CliRunner().invoke(app, ["card", "candidate", "--recipe", str(recipe)], catch_exceptions=False)
    assert f"# {made.revision}" in ran.output


def test_a_gate_without_a_revision(storage: Storage, found: RunReport) -> None:
    from pipelines.evaluation.report import of_gate
    from pipelines.evaluation.verdict import find_report

    gate = find_report(storage)
    unpublished = of_gate(storage, "another", GateReport.model_validate(dict(gate)), ())
    assert (unpublished.published, unpublished.revision) == (False, "")
    assert unpublished.scores == found.scores


def test_the_gate_of_another_name_is_not_a_recipe_s(storage: Storage) -> None:
    gate = _top(storage).inputs["gate"]
    assert published_by_others(storage, "of another recipe") == {gate}
    assert published_by_others(storage, _top(storage).name) == set()
    with pytest.raises(InputError, match="no gate report"):
        find_report(storage, not_of={gate})


def test_of_several_recipes_in_one_storage_each_finds_the_gate_of_its_last_run(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    gates = {}
    for name, key in (("a", "1"), ("a", "2"), ("ab", "3"), ("a", "1")):  # the last time nothing is made
        build = partial(artifacts.save, storage, GateReport(key=key * 16))
        gates[key] = Run(name, storage, "gate", None).make("gate", "gate", build)  # none is published
    assert last_gate(storage, "a") == gates["1"]
    assert last_gate(storage, "ab") == gates["3"]
    with pytest.raises(InputError, match="no gate report yet"):
        last_gate(storage, "c")  # all that there are belong to others
    before = artifacts.save(storage, GateReport(key="4" * 16))  # by a version that did not say whose it is
    assert last_gate(storage, "c") == before
    artifacts.retire(storage, gates["3"])
    assert last_gate(storage, "ab") == before
