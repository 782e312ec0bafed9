"""The rollout: observe, decide, act, persist."""
