"""How many pods the stages of a recipe need, and whether the pools can ever have so many."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.demand import Demand, findings, stage_nodes
from cluster.errors import ConfigError
from cluster.kuberay.pods import granted
from cluster.kuberay.settings import Settings
from cluster.topology import Topology


def pods_of_stages(
    topology: Topology, settings: Settings, asked: Sequence[Demand], where: str
) -> dict[str, dict[str, int]]:
    """Stage -> pool -> pods that it needs at once, by what a pod grants: a little less than its machine.

    Args:
        where: the recipe's file, for errors.

    Raises:
        ConfigError: a stage needs more than a pod, or more pods than the pool may have. It would wait until its job's deadline,
            with the nodes of the job's cluster held.
    """
    pods = granted(topology, settings)
    if found := findings(pods, asked):
        first, *rest = found
        more = "".join(f"\n{where}: {finding.where}: {finding.found}" for finding in rest)
        grants = ", ".join(f"{pool.name} {pool.num_cpus}" for pool in pods.pools)
        remedies = "; ".join(dict.fromkeys(finding.remedy for finding in found))
        raise ConfigError(
            f"{where}: {first.where}",
            f"{first.found}{more}\n(overlay `{settings.name}`; CPUs of a pod: {grants}, a little less than its machine)",
            remedies,
        )
    return stage_nodes(pods, asked)
