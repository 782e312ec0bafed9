"""How many of the pods that serve a machine's drain may take at once: enough stay to answer, and no drain is refused for good."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cluster.kuberay.settings import Document, metadata

KIND = "PodDisruptionBudget"
GROUP = "serve"


def disruption_budget(cluster_name: str, num_pods: int) -> Document:
    """Drained machines take the pods that serve one at a time, as long as the autoscaler has not added to them.

    As a number of pods: their owner has no scale subresource, for which Kubernetes counts `minAvailable` alone, and one that is
    always there to be had, since a number for the pods of a busy hour would refuse every eviction in a quiet one. Pods that
    are not ready answer nobody and may go at any time: by Kubernetes' default they would hold their machines for as long as too
    few are. The head has no budget: it may be evicted, and comes back with its state from Redis.

    Args:
        num_pods: the least that the pool has, at least two.
    """
    assert num_pods > 1, "the budget of a lone pod would refuse every drain"
    return {
        "apiVersion": "policy/v1",
        "kind": KIND,
        "metadata": metadata("serinus-gateway", "gateway"),
        "spec": {
            "minAvailable": num_pods - 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": {"ray.io/cluster": cluster_name, "ray.io/group": GROUP}},
        },
    }


def refusals(documents: Sequence[Document]) -> Iterator[tuple[Document, str, str]]:
    """Budgets that let no machine be drained, at some time or ever: which, what was found, what to do."""
    for document in documents:
        if document["kind"] != KIND:
            continue
        spec, least = document["spec"], _least(document, documents)
        if not isinstance(kept := spec.get("minAvailable"), int):
            found = "Kubernetes counts a number in minAvailable alone for pods whose owner has no scale subresource"
            yield document, found, "set minAvailable to a number of pods"
        elif least is not None and kept >= least:
            found = f"keeps {kept} of the {least} pods that are always there: no machine of theirs could be drained"
            yield document, found, "set minAvailable to less than the group's minReplicas"
        if spec.get("unhealthyPodEvictionPolicy") != "AlwaysAllow":
            found = "pods that are not ready would keep their machines from being drained"
            yield document, found, "set unhealthyPodEvictionPolicy: AlwaysAllow"


def _least(budget: Document, documents: Sequence[Document]) -> int | None:
    """Pods that the budget's group has at least; None where its cluster is not among the documents."""
    wanted = budget["spec"]["selector"]["matchLabels"]
    for document in documents:
        if document["kind"] == "RayCluster" and document["metadata"]["name"] == wanted.get("ray.io/cluster"):
            for group in document["spec"]["workerGroupSpecs"]:
                if group["groupName"] == wanted.get("ray.io/group"):
                    return int(group.get("minReplicas", 0))
    return None
