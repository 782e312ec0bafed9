"""Which nodes work goes to, by what Ray tells of them."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from cluster import pools
from cluster.errors import ResourceError
from cluster.topology import AUTOSCALED_LABEL, POOL_LABEL

ON_DATA = {POOL_LABEL: "data"}


@pytest.mark.parametrize(
    ("living", "dead", "selector", "lacks"),
    [
        ([{}], [], {}, False),
        ([{POOL_LABEL: "head"}, ON_DATA], [ON_DATA], ON_DATA, False),
        ([{POOL_LABEL: "head"}, {POOL_LABEL: "serve"}], [{POOL_LABEL: "train"}], {}, False),
        ([{POOL_LABEL: "head"}, {POOL_LABEL: "serve"}], [ON_DATA], ON_DATA, True),
        ([{POOL_LABEL: "head", AUTOSCALED_LABEL: "true"}], [], ON_DATA, True),
    ],
    ids=["private", "there", "not-there", "gone", "to-come"],
)
def test_work_goes_to_its_pool_where_the_cluster_has_it_or_brings_it(
    living: list[dict[str, str]],
    dead: list[dict[str, str]],
    selector: dict[str, str],
    lacks: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = [
        {"Alive": alive, "Labels": labels, "NodeManagerAddress": "host", "Resources": {"GPU": 0.0}}
        for alive, all_of in ((True, living), (False, dead))
        for labels in all_of
    ]
    ray = SimpleNamespace(nodes=lambda: nodes)  # whose import takes six seconds
    monkeypatch.setitem(sys.modules, "ray", ray)
    assert pools.on_pool("data") == selector
    assert pools.lacks_node("data") == lacks
    if lacks:  # of machines that are still to come nothing is known
        pools.check_gpus("data", 1, "data.num_gpus")
    else:
        with pytest.raises(ResourceError, match="a node of pool `data` has 0"):
            pools.check_gpus("data", 1, "data.num_gpus")
