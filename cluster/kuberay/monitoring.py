"""What Prometheus reads, and when it calls someone. Alerts rest on metrics that exist: a test looks each of them up."""

from __future__ import annotations

from cluster.kuberay.access import RAY_PODS, metrics_network
from cluster.kuberay.settings import Document, metadata
from cluster.telemetry import (
    DECAY_PHASE,
    EVIDENCE_LOST,
    REFUSED,
    REQUESTS,
    ROLLOUT_TURN,
    ROLLOUT_WAITS,
    STAGE_ENDED,
    STAGE_RUNNING,
    TRAIN_BUDGET_SPENT,
    TRAIN_ROLLBACKS,
    TRAIN_STEP_AT,
    TTFT,
)

HARMFUL = "empty|http_error|stream_error|timeout|truncated|unavailable"
NOT_COUNTED = "cancelled|refused"
"""What the client did is no failure of ours. Both as in services/contract.py, which a test compares."""

STABLE_ERROR_SHARE = 0.01
"""The usual objective of 99 % answered well; the rollout's margin is set by it too (RolloutConfig)."""
STABLE_TTFT_S = 10.0
"""A tenth of all users waits longer for a first token: nobody waits longer than that without a word (Nielsen 1993, chapter 5)."""
REFUSED_SHARE = 0.05
GATEWAY = "gateway"
"""Name of the gateway's application (services/contract.py, which a test compares)."""
TURN_S = 900
"""A rollout's controller takes its turn every few seconds; one that loads a candidate takes `serve.ready_timeout_s`, 600."""
WAITS_S = 900
"""A decision waits so long for replicas or gateways; a promotion gives replicas 600 s (services/rollout/loop.py)."""
STEP_S = 1800
"""A step takes seconds to a few minutes; NCCL's own watchdog gives up on a rank that does not answer after 600."""
ROLLBACKS = 2
"""In an hour, one after another: the recipe lets three steps' data be left out (train.max_skipped_steps), and then the run ends."""
BUDGET_SHARE = 0.9
TOLD_M = 15
"""Minutes for which what a driver ended with is told. Its node may be gone by then (KEPT_AFTER_S in jobs.py)."""
MEMORY_SHARE = 0.9
"""Ray begins to end tasks at 0.95 of a node's memory (RAY_memory_usage_threshold)."""


def documents(cluster_name: str) -> list[Document]:
    """PodMonitor, PrometheusRule and the way in for the Prometheus operator (monitoring.coreos.com/v1)."""
    return [_pod_monitor(), rules(cluster_name), metrics_network()]


def _pod_monitor() -> Document:
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": metadata("serinus-ray", "monitoring"),
        "spec": {
            "selector": RAY_PODS,
            "podMetricsEndpoints": [{"port": "metrics", "interval": "15s"}],
            "podTargetLabels": ["ray.io/cluster", "ray.io/group"],
        },
    }


def rules(cluster_name: str) -> Document:
    """The alerts. Rollouts judge canaries by themselves, so none of these is about a canary's answers."""
    rules = [*_serving(), *_rollouts(), *_pipelines(), *_cluster(cluster_name)]
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": metadata("serinus", "monitoring"),
        "spec": {"groups": [{"name": "serinus", "rules": rules}]},
    }


def _serving() -> list[Document]:
    stable = f'ray_{REQUESTS}_total{{role="stable"'
    share = (
        f'sum by (model) (rate({stable}, outcome=~"{HARMFUL}"}}[5m])) / '
        f'sum by (model) (rate({stable}, outcome!~"{NOT_COUNTED}"}}[5m])) > {STABLE_ERROR_SHARE:g}'
    )
    wait = (
        "histogram_quantile(0.9, sum by (model, le) "
        f'(rate(ray_{TTFT}_bucket{{role="stable"}}[5m]))) > {STABLE_TTFT_S:g}'
    )
    # No request may have got through at all: then the first part is absent, and adding it would make the sum absent too.
    full = f'sum by (model) (rate(ray_{REFUSED}_total{{code=~"queue_full|service_unavailable|503"}}[5m]))'
    through = f"(sum by (model) (rate(ray_{REQUESTS}_total[5m])) or {full} * 0)"
    crowded = f"{full} / ({full} + {through}) > {REFUSED_SHARE:g}"
    healthy = f'ray_serve_deployment_replica_healthy{{application="{GATEWAY}"}}'
    # Before the first deployment there is none, rightly; one that was there in the last hours is missed, also when Serve is gone.
    no_gateway = f"(max(max_over_time({healthy}[6h])) > 0) unless on() (max({healthy}) > 0)"
    unhealthy = "min by (application, deployment) (ray_serve_deployment_replica_healthy) == 0"
    model, percent = "{{ $labels.model }}", "{{ $value | humanizePercentage }}"
    slow = f"a tenth of the users of {model} waits over {{{{ $value | humanizeDuration }}}}"
    return [
        _alert("SerinusHarmfulAnswers", share, "5m", f"{percent} of stable's answers to {model} are harmful"),
        _alert("SerinusSlowFirstToken", wait, "10m", slow),
        _alert("SerinusTurnsUsersAway", crowded, "5m", f"{percent} of the requests to {model} find no room"),
        _alert("SerinusNoGateway", no_gateway, "1m", "no gateway replica is healthy: nobody is answered"),
        _alert("SerinusReplicaUnhealthy", unhealthy, "5m", "a replica of {{ $labels.application }} is not healthy"),
    ]


def _rollouts() -> list[Document]:
    turn = f"time() - max by (model) (last_over_time(ray_{ROLLOUT_TURN}[1h])) > {TURN_S}"
    waits = f"max by (model) (ray_{ROLLOUT_WAITS}) > {WAITS_S}"
    alarmed, reverted = (
        f'max by (model) (ray_{DECAY_PHASE}{{phase="{phase}"}}) == 1' for phase in ("alarmed", "reverted")
    )
    # Ray's counter begins with its first loss: what was not there ten minutes ago has grown too.
    total = f"ray_{EVIDENCE_LOST}_total"
    grown = f"increase({total}[10m]) > 0 or ({total} unless {total} offset 10m) > 0"
    lost = f"sum by (model) ({grown})"
    model, long = "{{ $labels.model }}", "{{ $value | humanizeDuration }}"
    away = f"the controller of {model} took no turn for {long}: a harmful canary would not be taken out"
    stuck = f"a decision of the rollout of {model} has not been in force for {long}"
    decayed = f"{model} has decayed and nothing was changed: see serinus canary status"
    back = f"{model} had decayed and everybody is on the previous revision: see serinus canary history"
    few = f"{{{{ $value | humanize }}}} records of requests to {model} never reached its rollout's controller"
    return [
        _alert("SerinusControllerAway", turn, "1m", away),
        _alert("SerinusRolloutStuck", waits, "1m", stuck, "ticket"),
        _alert("SerinusDecayed", alarmed, "1m", decayed),
        _alert("SerinusDecayWentBack", reverted, "1m", back, "ticket"),
        _alert("SerinusEvidenceLost", lost, "1m", few, "ticket"),
    ]


def _pipelines() -> list[Document]:
    """Nobody who asks the gateway notices any of it. A gate's no is a verdict, not a failure."""
    ended = f'ray_{STAGE_ENDED}_total{{outcome="failed"}}'
    failed = f"sum by (model, stage, artifact) ({_new(ended)}) > 0"
    # A driver that ends says 0, which is seen until 20 s later; one that was killed was last seen at work.
    last = f"max by (model, stage) (last_over_time(ray_{STAGE_RUNNING}[{TOLD_M}m])) == 1"
    gone = f"{last} unless on (model, stage) last_over_time(ray_{STAGE_RUNNING}[3m])"
    # 0 while no step is awaited.
    stalled = f"time() - max by (model) (ray_{TRAIN_STEP_AT} > 0) > {STEP_S}"
    back = f"max by (model) (max_over_time(ray_{TRAIN_ROLLBACKS}[1h]) - min_over_time(ray_{TRAIN_ROLLBACKS}[1h]))"
    spent = f"max by (model) (last_over_time(ray_{TRAIN_BUDGET_SPENT}[{TOLD_M}m])) > {BUDGET_SHARE:g}"
    model, stage = "{{ $labels.model }}", "{{ $labels.stage }}"
    of = f"{stage} of {model}"
    killed = (
        f"the driver of {of} is gone without a word (killed, or its node lost): run it again, it goes on where it was"
    )
    still = (
        f"the training of {model} awaits a step for {{{{ $value | humanizeDuration }}}}: its nodes are held for nothing"
    )
    spikes = f"{{{{ $value }}}} steps of {model} did not stand within an hour: lower train.learning_rate, or look at the data"
    budget = f"private runs on the data of {model} have spent {{{{ $value | humanizePercentage }}}} of its budget"
    return [
        _alert(
            "SerinusStageFailed", failed, "0m", f"{of} failed ({{{{ $labels.artifact }}}}): see the job's log", "ticket"
        ),
        _alert("SerinusStageGone", gone, "1m", killed, "ticket"),
        _alert("SerinusTrainingStalled", stalled, "1m", still),
        _alert("SerinusTrainingUnstable", f"{back} >= {ROLLBACKS}", "0m", spikes, "ticket"),
        _alert("SerinusPrivacyBudget", spent, "0m", budget, "ticket"),
    ]


def _new(counter: str) -> str:
    """What was counted in the last minutes, also by who is gone. Each driver has counters of its own, which begin with their
    first count: of those that were not there before, all is new."""
    last = f"last_over_time({counter}[{TOLD_M}m])"
    return (
        f"(increase({counter}[{TOLD_M}m]) > 0 or {last} unless last_over_time({counter}[{TOLD_M}m] offset {TOLD_M}m))"
    )


def _cluster(name: str) -> list[Document]:
    memory = f"max by (instance) (ray_node_mem_used / ray_node_mem_total) > {MEMORY_SHARE:g}"
    disk = "min by (instance) (ray_node_disk_free / (ray_node_disk_free + ray_node_disk_usage)) < 0.1"
    away = f'absent(up{{ray_io_cluster="{name}", ray_io_group="headgroup"}} == 1)'
    no_head = "no head answers: nothing is scheduled, and without Redis nothing is served"
    node, percent = "{{ $labels.instance }}", "{{ $value | humanizePercentage }}"
    return [
        _alert("SerinusHeadAway", away, "2m", no_head),
        _alert("SerinusNodeMemory", memory, "5m", f"{node} uses {percent} of its memory: Ray will end tasks", "ticket"),
        _alert("SerinusNodeDisk", disk, "10m", f"{node} has {percent} of its disk left", "ticket"),
    ]


def _alert(name: str, expression: str, lasting: str, summary: str, severity: str = "page") -> Document:
    return {
        "alert": name,
        "expr": expression,
        "for": lasting,
        "labels": {"severity": severity},
        "annotations": {"summary": summary},
    }
