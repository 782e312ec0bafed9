"""What people type about models that run: deploying, keys, rollouts. Above serving and rollouts, which do not know each other."""
