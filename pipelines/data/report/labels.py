"""How far annotators agree on the labels of this version, from the manifests of its annotations."""

from __future__ import annotations

from cluster.artifacts import Annotations, Dataset
from cluster.storage import Storage
from cluster.versions import every
from pipelines.data.report.figures import Labels, Layer


def labels(storage: Storage, dataset: Dataset) -> tuple[Labels, ...]:
    """Oldest first."""
    return tuple(_labels(made) for made in every(storage, Annotations)[0] if made.dataset == dataset.key)


def _labels(made: Annotations) -> Labels:
    agreement = {one.layer: one for one in made.agreement}
    return Labels(
        key=made.key,
        made_at=made.made_at,
        annotators=made.annotators,
        num_documents=made.num_documents,
        layers=tuple(
            Layer(
                name=name,
                num_given=given,
                num_accepted=made.num_accepted_by_layer.get(name, 0),
                alpha=agreement[name].alpha if name in agreement else None,
                num_units=agreement[name].num_units if name in agreement else 0,
            )
            for name, given in made.num_given_by_layer.items()
        ),
        num_review_by_reason=made.num_review_by_reason,
    )
