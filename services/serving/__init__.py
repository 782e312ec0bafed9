"""The gateway and the model servers."""
