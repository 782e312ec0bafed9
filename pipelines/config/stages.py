"""Stages and pools, by name. No heavy imports here."""

from __future__ import annotations

from typing import Literal, get_args

Pool = Literal["data", "train", "serve", "head"]


Stage = Literal["clean", "train", "evaluate", "quantize", "gate", "publish"]
"""In the order in which they run; importing the base model belongs to train."""


STAGES: tuple[Stage, ...] = get_args(Stage)
