"""Metrics of published benchmarks, one a module: each reproduces published figures (tests/unit/pipelines/evaluation/metrics)."""
