"""Makes artifacts: datasets, checkpoints, reports, quantized models and revisions."""
