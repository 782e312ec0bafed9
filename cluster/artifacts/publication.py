"""What is served."""

from __future__ import annotations

from typing import Any, Literal

from cluster.artifacts.manifest import Manifest


class Adapter(Manifest):
    """A LoRA adapter as PEFT writes it: `adapter/` in the artifact's folder."""

    kind: Literal["adapter"] = "adapter"
    base: str = ""
    """Revision it was checked against."""
    rank: int = 0
    """The largest one of any module."""
    target_modules: tuple[str, ...] = ()
    num_parameters: int = 0

    @property
    def folder(self) -> str:
        return f"{self.location}/adapter"

    @property
    def summary(self) -> str:
        return f"rank {self.rank} on {', '.join(self.target_modules)}, {self.num_parameters / 1e6:.2f} M parameters"


class Revision(Manifest):
    """An immutable, servable model under a public name."""

    kind: Literal["revision"] = "revision"
    name: str = ""
    """The model's public name."""
    revision: str = ""
    """<name>-<first 8 digits of the key>; serving applications carry it."""
    weights: str = ""
    """Storage folder of the Hugging Face model that is served."""
    base: str = ""
    """For an adapter: the revision in whose engine it runs, which has the same weights."""
    adapter: str = ""
    """For an adapter: storage folder of its PEFT files."""
    baseline: bool = False
    """Published without a gate: the base model, quantized the same way."""
    engine: dict[str, Any] = {}
    """Overrides of the recipe's engine settings for this revision alone."""

    @property
    def kv_cache(self) -> str:
        """As the quantized model has it (`QuantizedModel.kv_cache`), which the gate judged with its cache kept so."""
        return str(self.config.get("kv_cache", ""))

    @property
    def engine_revision(self) -> str:
        """The revision whose application answers for this one: its own, or that of an adapter's base."""
        return self.base or self.revision

    @property
    def summary(self) -> str:
        if self.adapter:
            return f"{self.revision} (adapter on {self.base}, judged by no gate)"
        return self.revision + (" (baseline: the base model, judged by no gate)" if self.baseline else "")
