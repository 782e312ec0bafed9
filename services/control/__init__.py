"""The control API: rollouts looked at and steered over HTTP, by keys with roles. Above serving and rollouts, beneath commands."""
