"""A checkpoint to a smaller one that answers alike."""
