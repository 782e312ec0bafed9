"""In which scheme a model is stored. No heavy imports here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from pipelines.config.stages import Pool, Seed
from pipelines.schemes import SchemeConfig, SchemeEntry, upper

Stratum = Literal["language", "domain"]


class QuantizeConfig(SchemeConfig):
    """One scheme, or several to be tried from the smallest upward until one passes the gate."""

    schemes: tuple[SchemeEntry, ...] = ()
    """Tried in this order instead of `scheme`; the first that passes the gate is taken. Names, or mappings with `scheme`,
    `method`, `group_size`, `kv_cache` and `ignore`."""
    num_calibration_sequences: int = Field(64, ge=1)
    calibration_length: int = Field(512, ge=16)
    """Tokens."""
    balance: tuple[Stratum, ...] = ("language", "domain")
    """Calibration text comes in equal shares from each language and from each of `data.sources`; [] takes documents as they lie."""
    ignore: tuple[str, ...] = ("lm_head",)
    """Layers that stay in bfloat16: a name, or `re:` and an expression."""
    keep_most_sensitive: int | None = Field(None, ge=0)
    """So many more layers stay in bfloat16: those whose output loses most on calibration text. 0 only measures and records it in
    the model's sensitivity.json; q_proj, k_proj and v_proj of a block are one layer, gate_proj and up_proj too."""
    num_gpus: int = Field(0, ge=0)
    pool: Pool = "train"
    seed: Seed = 0

    @model_validator(mode="after")
    def _one_or_several(self) -> QuantizeConfig:
        alone = SchemeConfig()
        if self.schemes and any(getattr(self, name) != getattr(alone, name) for name in SchemeConfig.model_fields):
            raise ValueError("schemes stand for themselves: leave scheme, method, group_size and kv_cache out")
        settings = [plan.settings for plan in self.plans]
        if repeated := {plan.label for plan in self.plans if settings.count(plan.settings) > 1}:
            raise ValueError(f"schemes are tried once each, repeated: {', '.join(sorted(repeated))}")
        return self

    @property
    def plans(self) -> tuple[QuantizeConfig, ...]:
        """What is tried, in this order: each a configuration with one scheme."""
        if not self.schemes:
            return (self,)
        return tuple(
            self.replace(
                schemes=(),
                scheme=entry.scheme,
                method=entry.method,
                group_size=entry.group_size,
                kv_cache=entry.kv_cache,
                ignore=self.ignore if entry.ignore is None else entry.ignore,
                keep_most_sensitive=(
                    self.keep_most_sensitive if entry.keep_most_sensitive is None else entry.keep_most_sensitive
                ),
            )
            for entry in self.schemes
        )

    @property
    def needs_text(self) -> bool:
        """Whether the train documents are read: by the method, for the cache's scales, or to tell which layers are sensitive."""
        ranks_layers = self.keep_most_sensitive is not None and self.made_by is not None
        return self.is_calibrated or self.kv_cache == "fp8" or ranks_layers

    @property
    def label(self) -> str:
        kept = [name for name in self.ignore if name != "lm_head"] if self.made_by else []
        kept += (
            [f"the {self.keep_most_sensitive} most sensitive layers"]
            if self.keep_most_sensitive and self.made_by
            else []
        )
        return super().label + (f", {' and '.join(kept)} in BF16" if kept else "")

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the result of a single scheme: not the machine, nor what a method does not look at."""
        settings: dict[str, Any] = {"scheme": self.scheme}
        # Left out where it is what earlier versions did, so that what they made is found again.
        if self.kv_cache is not None:
            settings["kv_cache"] = self.kv_cache
        settings |= self._of_weights
        if self.needs_text:
            settings |= {
                "num_calibration_sequences": self.num_calibration_sequences,
                "calibration_length": self.calibration_length,
                "seed": self.seed,
            }
            if self.balance:
                settings["balance"] = list(self.balance)
        return settings

    @property
    def _of_weights(self) -> dict[str, Any]:
        if self.made_by is None:
            return {}
        settings: dict[str, Any] = {"ignore": list(self.ignore)}
        if (self.scheme, self.made_by) != ("W8A8", "gptq"):  # left out for the same
            settings["method"] = self.made_by
        if self.groups_of:
            settings["group_size"] = self.groups_of
        if self.keep_most_sensitive is not None:
            settings["keep_most_sensitive"] = self.keep_most_sensitive
        return settings


class QuantizationAwareConfig(SchemeConfig):
    """Training with weights, and for W8A8 and FP8 activations, rounded as the scheme will store them (Jacob et al. 2018, arXiv
    1712.05877), so that what rounding loses is learnt away. Give `quantize` the same scheme, `method: rtn` and `ignore`."""

    scheme: Annotated[Literal["W4A16", "W8A8", "FP8"], BeforeValidator(upper)] = Field()
    method: Literal["rtn"] = "rtn"
    """Rounding to the nearest is what is trained with: others move the weights again."""
    ignore: tuple[str, ...] = ("lm_head",)
    """Layers that are not rounded: a name, or `re:` and an expression."""
    kv_cache: None = None
    """Training has no cache: `quantize.kv_cache` quantizes it afterwards."""

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the result."""
        groups = {"group_size": self.groups_of} if self.groups_of else {}
        return {"scheme": self.scheme, **groups, "ignore": list(self.ignore)}

    def departure(self, plan: QuantizeConfig) -> str | None:
        """Why the model, stored by that one scheme, is not what was trained; None where it is."""
        trained = f"the model is trained for {self.label}"
        if plan.made_by is None:
            return f"{trained}, and {plan.label} rounds nothing"
        if (plan.scheme, plan.groups_of) != (self.scheme, self.groups_of):
            return f"{trained}, and {plan.label} rounds to other numbers"
        if plan.made_by != "rtn":
            return f"{trained}, and {plan.made_by} moves the weights again: set quantize.method to rtn"
        if set(plan.ignore) != set(self.ignore) or plan.keep_most_sensitive:
            return f"{trained}, and other layers are left as they are: give both the same ignore, and no keep_most_sensitive"
        return None
