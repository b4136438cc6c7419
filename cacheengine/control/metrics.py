"""Every metric of the control service, by name. They count; they never name a dataset, a node or a token."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

REGISTRY = CollectorRegistry()

requests = Counter(
    "outlap_control_requests_total",
    "HTTP requests by route, method and status.",
    ("route", "method", "status"),
    registry=REGISTRY,
)
errors = Counter("outlap_control_errors_total", "Errors answered, by kind.", ("kind",), registry=REGISTRY)
heartbeats = Counter(
    "outlap_control_heartbeats_total",
    "Heartbeats taken, by what they hold: all versions, or changes.",
    ("holds",),
    registry=REGISTRY,
)
nodes = Gauge("outlap_control_nodes", "Known nodes, alive or dead.", ("state",), registry=REGISTRY)
jobs_active = Gauge("outlap_control_jobs_active", "Jobs that have not ended.", registry=REGISTRY)
jobs_ended = Counter(
    "outlap_control_jobs_ended_total",
    "Jobs that ended, by kind and state.",
    ("kind", "state"),
    registry=REGISTRY,
)
background_failures = Counter(
    "outlap_control_background_failures_total",
    "Rounds of a background loop that failed; the log says why.",
    ("loop",),
    registry=REGISTRY,
)
