"""Stages and pools by name, and seeds. No heavy imports here."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

Pool = Literal["data", "train", "serve", "head"]

Count = Annotated[int, Field(ge=1, lt=2**31)]
"""Of what a run has many of. More is a slip, and too much to reckon with."""
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""Of what is drawn: numpy takes none below 0, and vLLM none that needs more than 32 bits."""


Stage = Literal["clean", "train", "evaluate", "quantize", "gate", "publish"]
"""In the order in which they run; importing the base model belongs to train."""


STAGES: tuple[Stage, ...] = get_args(Stage)
