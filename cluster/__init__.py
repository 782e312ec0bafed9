"""Shared ground: configuration, topology, sessions, storage, manifests and the registry. Imports nothing of ours."""
