"""Manifests: frozen records of what was made, from what, by which rules.

A stage fills the folder `artifacts/<kind>/<key>/` and writes `manifest.json` there last, so the manifest is at once the
completion marker, the cache key (`key` is known before the work starts) and the lineage edge (`inputs` are digests).
"""

from __future__ import annotations

from cluster.artifacts.contamination import Contamination, OverlapRule, TaskContamination
from cluster.artifacts.data import Agreement, Annotations, Batch, Dataset, Preferences, Record, Repeated
from cluster.artifacts.evaluation import (
    Check,
    Difference,
    EvalReport,
    Finding,
    GateReport,
    Outcome,
    OverlapCheck,
    Rate,
    Score,
    Speed,
)
from cluster.artifacts.manifest import VERSION, VOLATILE, FileEntry, Manifest, Source, Weights, digest
from cluster.artifacts.progressive import Coefficient, Forecast, ForecastCheck, InitialModel, Prediction, StageRun
from cluster.artifacts.publication import Adapter, Revision
from cluster.artifacts.quantization import QuantizedModel, SchemeAttempt, SchemeSearch, SliceFinding
from cluster.artifacts.store import KINDS, commit, file_entries, find, load, retire, save, stage_key
from cluster.artifacts.training import (
    Checkpoint,
    ImportedModel,
    Incident,
    Ledger,
    LossPoint,
    PreferenceAccuracy,
    Privacy,
    Retention,
    WeightAttempt,
    WeightSearch,
)

__all__ = [
    "KINDS",
    "VERSION",
    "VOLATILE",
    "Adapter",
    "Agreement",
    "Annotations",
    "Batch",
    "Check",
    "Checkpoint",
    "Coefficient",
    "Contamination",
    "Dataset",
    "Difference",
    "EvalReport",
    "FileEntry",
    "Finding",
    "Forecast",
    "ForecastCheck",
    "GateReport",
    "ImportedModel",
    "Incident",
    "InitialModel",
    "Ledger",
    "LossPoint",
    "Manifest",
    "Outcome",
    "OverlapCheck",
    "OverlapRule",
    "Prediction",
    "PreferenceAccuracy",
    "Preferences",
    "Privacy",
    "QuantizedModel",
    "Rate",
    "Record",
    "Repeated",
    "Retention",
    "Revision",
    "SchemeAttempt",
    "SchemeSearch",
    "Score",
    "SliceFinding",
    "Source",
    "Speed",
    "StageRun",
    "TaskContamination",
    "WeightAttempt",
    "WeightSearch",
    "Weights",
    "commit",
    "digest",
    "file_entries",
    "find",
    "load",
    "retire",
    "save",
    "stage_key",
]
