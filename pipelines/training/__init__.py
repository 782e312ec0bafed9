"""A base model and a dataset to a checkpoint."""
