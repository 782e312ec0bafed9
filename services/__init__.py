"""Runs artifacts: the gateway, one model server per revision, and the rollout between them."""
