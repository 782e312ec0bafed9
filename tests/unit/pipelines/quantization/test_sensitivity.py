"""Which layers lose most: the measure on layers whose loss is known, and what is kept for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import QuantizeConfig
from pipelines.quantization.sensitivity import FILE, Layer, keep_most_sensitive, measure, rank
from pipelines.rounding import stored_activations, stored_weights

torch = pytest.importorskip("torch")

WIDTH = 64


def asked(**fields: object) -> QuantizeConfig:
    return QuantizeConfig.model_validate({"ignore": [], **fields})


class Small(torch.nn.Module):  # type: ignore[misc]
    """Token -> embedding -> three layers side by side: of `plain` values, of one outlier in a row, and of whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embed = torch.nn.Embedding(16, WIDTH)
        self.embed.weight.data = torch.randn(16, WIDTH, generator=generator)
        self.plain, self.outlier, self.whole = (torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.plain.weight.data = torch.randn(WIDTH, WIDTH, generator=generator)
        self.outlier.weight.data = torch.randn(WIDTH, WIDTH, generator=generator)
        self.outlier.weight.data[:, 0] = 100
        self.embed.weight.data[:, 0] = 0  # the outlier takes the others' range and gives nothing
        whole = torch.randint(-7, 8, (WIDTH, WIDTH), generator=generator).float()
        whole[:, ::32] = 7.5  # with a scale of exactly 1
        self.whole.weight.data = whole

    def forward(self, tokens: Any) -> Any:
        x = self.embed(tokens)
        return self.plain(x) + self.outlier(x) + self.whole(x)


SEQUENCES = [[1, 2, 3, 4], [5, 6, 7, 8, 9]]


def errors(**fields: object) -> dict[str, float]:
    (layers,) = [rank(measure(Small(), SEQUENCES, asked(**fields)))]
    return {layer.modules[0]: layer.relative_error for layer in layers}


def test_the_layer_with_outliers_loses_most_and_more_bits_lose_less() -> None:
    four, eight = errors(scheme="w4a16", group_size=64), errors()
    assert list(four) == ["outlier", "plain", "whole"]
    assert four["outlier"] > 0.5
    assert 1e-3 < four["plain"] < 0.05
    assert all(eight[name] < four[name] for name in ("outlier", "plain"))
    # Small groups keep the outlier to itself: half of the columns are then stored as in `plain`.
    assert errors(scheme="w4a16", group_size=32)["outlier"] < 0.7 * four["outlier"]


def test_weights_are_rounded_as_the_formats_say() -> None:
    row = torch.tensor([[7.5, -7.5, 3.4, 0.0] + [0.2] * 28])
    assert stored_weights(row, asked(scheme="w4a16", group_size=32))[0, :4].tolist() == [7, -8, 3, 0]
    eighths = torch.tensor([[448.0, 17.0, 0.0, 1.0]])
    assert stored_weights(eighths, asked(scheme="fp8"))[0].tolist() == [448, 16, 0, 1]  # E4M3 has steps of 2 at 16
    x = torch.tensor([[127.5, 0.4, -127.5]])
    assert stored_activations(x, asked())[0].tolist() == [127, 0, -128]
    assert stored_activations(x, asked(scheme="w4a16")) is x


def test_what_an_engine_fuses_is_one_layer() -> None:
    found = rank(
        {
            "l.0.q_proj": (1.0, 10.0), "l.0.k_proj": (1.0, 1.0), "l.0.v_proj": (1.0, 1.0),
            "l.0.o_proj": (1.0, 5.0), "l.1.q_proj": (0.0, 0.0), "l.0.gate_proj": (3.0, 10.0), "l.0.up_proj": (0.0, 10.0),
        }
    )  # fmt: skip
    assert found == [
        Layer(("l.0.q_proj", "l.0.k_proj", "l.0.v_proj"), 0.25),
        Layer(("l.0.o_proj",), 0.2),
        Layer(("l.0.gate_proj", "l.0.up_proj"), 0.15),
        Layer(("l.1.q_proj",), 0.0),
    ]


def test_the_most_sensitive_are_kept_and_all_are_on_record(tmp_path: Path) -> None:
    config = asked(keep_most_sensitive=1, ignore=["plain"])
    assert keep_most_sensitive(Small(), SEQUENCES, config, tmp_path).ignore == ("plain", "outlier")
    found = json.loads((tmp_path / FILE).read_text())
    assert (found["kept"], found["num_tokens"]) == (["outlier"], 9)
    assert [layer["modules"] for layer in found["layers"]] == [["outlier"], ["whole"]]


def test_without_being_asked_nothing_is_measured(tmp_path: Path) -> None:
    assert keep_most_sensitive(None, SEQUENCES, asked(), tmp_path) == asked()
    assert not list(tmp_path.iterdir())


def test_what_is_kept_decides_the_key_and_needs_text() -> None:
    plain, measured, kept = (asked(method="rtn", keep_most_sensitive=n) for n in (None, 0, 2))
    assert len({str(config.settings) for config in (plain, measured, kept)}) == 3
    assert [config.needs_text for config in (plain, measured, kept)] == [False, True, True]
    assert kept.label == "W8A8 by rtn, the 2 most sensitive layers in BF16"
    several = asked(schemes=["w8a8", {"scheme": "w8a8", "keep_most_sensitive": 4}, "bf16"], keep_most_sensitive=0)
    assert [plan.keep_most_sensitive for plan in several.plans] == [0, 4, 0]
    assert not several.plans[2].needs_text
