"""Every metric of a node, by name. They count; labels never name a path or a token."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

REGISTRY = CollectorRegistry()

store_bytes = Counter("outlap_node_store_bytes_total", "Bytes taken from stores.", registry=REGISTRY)
store_requests = Counter("outlap_node_store_requests_total", "Requests made to stores.", registry=REGISTRY)
store_retries = Counter(
    "outlap_node_store_retries_total", "Requests made again after an error or wrong bytes.", registry=REGISTRY
)
other_store_bytes = Counter(
    "outlap_node_other_store_bytes_total",
    "Bytes taken from stores of other IDCs; they are among those of all stores.",
    registry=REGISTRY,
)
peer_bytes = Counter("outlap_node_peer_bytes_total", "Bytes taken from peers.", registry=REGISTRY)
peer_asked = Counter(
    "outlap_node_peer_asked_total",
    "Requests made to peers, by what they said.",
    ("answer",),
    registry=REGISTRY,
)
peer_state = Gauge(
    "outlap_node_peer_state",
    "Circuit breaker of a peer: 0 closed, 1 half-open, 2 open.",
    ("peer",),
    registry=REGISTRY,
)
peer_answers = Counter(
    "outlap_node_peer_answers_total",
    "Requests of peers, by what was answered.",
    ("answer",),
    registry=REGISTRY,
)
served_bytes = Counter("outlap_node_served_bytes_total", "Bytes sent to peers.", registry=REGISTRY)
miss_bytes = Counter(
    "outlap_node_miss_bytes_total",
    "Bytes that a reader asked for and that were not resident.",
    registry=REGISTRY,
)
ahead_bytes = Counter(
    "outlap_node_ahead_bytes_total",
    "Bytes fetched ahead of readers that go along a pack.",
    registry=REGISTRY,
)
gave_way = Counter(
    "outlap_node_gave_way_total",
    "How often a request of a warm waited for a reader's.",
    registry=REGISTRY,
)
members_bad = Counter(
    "outlap_node_members_bad_total", "Members whose bytes did not have their content id.", registry=REGISTRY
)
members_marked = Counter(
    "outlap_node_members_marked_total", "Members that were checked and marked resident.", registry=REGISTRY
)
have_damaged = Counter(
    "outlap_node_have_damaged_total",
    "Have records that could not be used; their bytes are fetched again.",
    registry=REGISTRY,
)
evicted_bytes = Counter(
    "outlap_node_evicted_bytes_total", "Bytes taken away, by why.", ("why",), registry=REGISTRY
)
no_space = Counter(
    "outlap_node_no_space_total", "Requests that did not fit into the cache.", registry=REGISTRY
)
cache_used = Gauge(
    "outlap_node_cache_used_bytes", "Bytes used, by cache directory.", ("dir",), registry=REGISTRY
)
cache_quota = Gauge(
    "outlap_node_cache_quota_bytes", "Quota, by cache directory.", ("dir",), registry=REGISTRY
)
cache_state = Gauge(
    "outlap_node_cache_state",
    "State of the disk of a cache directory: 0 normal, 1 unstable, 2 down.",
    ("dir",),
    registry=REGISTRY,
)
scrubbed_bytes = Counter(
    "outlap_node_scrubbed_bytes_total", "Resident bytes that were read and hashed again.", registry=REGISTRY
)
scrubbed_bad = Counter(
    "outlap_node_scrubbed_bad_total", "Resident members found damaged on disk.", registry=REGISTRY
)
views_replaced = Counter(
    "outlap_node_views_replaced_total", "Views mounted anew, by why.", ("why",), registry=REGISTRY
)
versions = Gauge("outlap_node_versions", "Versions by state of residency.", ("state",), registry=REGISTRY)
mounts = Gauge("outlap_node_mounts", "Mounted views.", registry=REGISTRY)
generation = Gauge(
    "outlap_node_generation", "Generation of the desired residency that was taken.", registry=REGISTRY
)
control_up = Gauge("outlap_node_control_up", "1 while the control service answers.", registry=REGISTRY)
fetchfs_restarts = Counter(
    "outlap_node_fetchfs_restarts_total",
    "How often fetchfs was found dead and started again.",
    registry=REGISTRY,
)
state_unreadable = Gauge(
    "outlap_node_state_files_unreadable",
    "State files that could not be read and were set aside; health names them.",
    registry=REGISTRY,
)
background_failures = Counter(
    "outlap_node_background_failures_total",
    "Failures of background work; the log says why.",
    ("part",),
    registry=REGISTRY,
)


def total(counter: Counter) -> int:
    """What a counter without labels has counted so far."""
    return int(sum(s.value for m in counter.collect() for s in m.samples if s.name.endswith("_total")))
