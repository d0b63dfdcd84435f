"""How long things take: histograms that are filled as they happen."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Histogram

RECONCILE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
PROPOSAL_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Durations:
    """Histograms that are filled as things happen."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.reconcile = Histogram(
            "hpo_reconcile_duration_seconds", "Time to look at a Study once.", registry=registry, buckets=RECONCILE_BUCKETS
        )
        self.proposal = Histogram(
            "hpo_proposal_duration_seconds",
            "Time until an algorithm answered.",
            ["algorithm"],
            registry=registry,
            buckets=PROPOSAL_BUCKETS,
        )
