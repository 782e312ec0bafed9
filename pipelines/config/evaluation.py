"""What is asked of a model. No heavy imports here."""

from __future__ import annotations

from pydantic import Field, field_validator

from cluster.config import StrictModel
from pipelines.config.stages import Pool, Seed
from pipelines.task_config import Task


class EvaluateConfig(StrictModel):
    tasks: tuple[Task, ...] = Field(min_length=1)
    max_model_len: int = Field(1024, ge=64)
    """Tokens of the longest item; longer ones are cut from the left."""
    num_gpus: int = Field(0, ge=0)
    """Of each engine."""
    num_engines: int = Field(1, ge=1)
    """Side by side on the pool; they share the items."""
    kv_cache_gib: float = Field(1.0, gt=0)
    speed: bool = True
    """Also measure how fast the engine writes (at 1, 8 and 32 requests at once) and answers, once it has answered the items."""
    contamination: bool = True
    """Also measure how many of the items stand in the documents that the model learns from, before it is trained."""
    pool: Pool = "serve"
    seed: Seed = 0

    @field_validator("tasks")
    @classmethod
    def _named_once(cls, tasks: tuple[Task, ...]) -> tuple[Task, ...]:
        names = [task.name for task in tasks]
        if repeated := {n for n in names if names.count(n) > 1}:
            raise ValueError(f"task names must differ, repeated: {', '.join(sorted(repeated))}")
        return tasks
