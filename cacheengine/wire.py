"""What control, agents and clients say to each other: the JSON of every request and answer.

One module, so that the control service, the agent, the CLI and Airflow cannot drift apart. Sizes are bytes,
times integer nanoseconds since the Unix epoch (`*_ns`), durations seconds (`*_s`).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

JobState = Literal["queued", "running", "done", "failed", "cancelled"]
ResidencyState = Literal["waiting", "fetching", "resident", "failed", "freeing"]
Role = Literal["gpu", "cache", "client"]
Medium = Literal["mem", "nvme", "ssd", "hdd"]
Placement = Literal["all", "spread"]


class Wire(BaseModel):
    """Base of all messages. Unknown fields are ignored: services of two releases speak with each other, and read each other's state."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Request(Wire):
    """Base of what people and their programs ask for: unknown fields are refused, so that a typo is an error and not a silence."""

    model_config = ConfigDict(extra="forbid")


def _example(**values: Any) -> ConfigDict:
    """What the OpenAPI page shows of a message."""
    return ConfigDict(json_schema_extra={"examples": [values]})


class Failure(Wire):
    """One path that could not be made resident, and why."""

    path: str
    cause: str


class WarmRequest(Request):
    """Make `dataset@ref` (tag, `latest` or version id prefix) resident on the nodes that `nodes` selects.

    `nodes`: `all`, a comma list of names, or `role=gpu`, `label.KEY=VALUE`. `files`: narrow to these paths.
    `request_id`: the same id twice is the same job. `placement`: `all`, each of them holds all of it; `spread`: each pack is held by
    `copies` of them (see cacheengine.control.placement). `priority`: nodes warm higher ones first. `bandwidth_bps`: the most bytes a
    second that each node fetches for it (default: the group's setting).
    """

    model_config = _example(
        dataset="city", ref="v3", nodes="role=gpu", priority=10, bandwidth_bps=500_000_000
    )

    dataset: str
    ref: str = "latest"
    files: tuple[str, ...] | None = None
    nodes: str = "all"
    pin: bool = False
    request_id: str | None = None
    placement: Placement = "all"
    copies: int = Field(default=1, ge=1, le=16)
    priority: int = Field(default=0, ge=-100, le=100)
    bandwidth_bps: int | None = Field(default=None, gt=0)


class FreeRequest(Request):
    """Release what `dataset@ref` holds; `files` narrows it to these paths. `force`: also where it is pinned."""

    model_config = _example(dataset="city", ref="v2", nodes="all")

    dataset: str
    ref: str = "latest"
    files: tuple[str, ...] | None = None
    nodes: str = "all"
    request_id: str | None = None
    force: bool = False


class PinRequest(Request):
    model_config = _example(dataset="city", ref="v3", nodes="b1,b2")

    dataset: str
    ref: str = "latest"
    nodes: str = "all"


class NodeEstimate(Wire):
    """What one node would have to fetch; `seconds` from its measured rate, None when nothing was measured yet.

    `basis`: what that rate is: of several fetches of the node, of `one` fetch, of `other nodes` (it has measured none itself), the
    `cap` that is set, or `nothing`. Of one fetch, and of other nodes, little is known: from half to twice the time.
    """

    node: str
    files_missing: int
    bytes_missing: int
    bytes_free: int
    fits: bool
    seconds: float | None = None
    seconds_low: float | None = None
    seconds_high: float | None = None
    basis: Literal["several", "one", "other nodes", "cap", "nothing"] = "nothing"
    evicts: tuple[str, ...] = ()


class Estimate(Wire):
    dataset: str
    version: str
    files: int
    bytes: int
    seconds: float | None = None
    seconds_low: float | None = None
    seconds_high: float | None = None
    nodes: tuple[NodeEstimate, ...] = ()


class NodeProgress(Wire):
    """How far a node is. `bytes_done`: resident and checked. `bytes_coming`: received on top of that and not checked, or not marked,
    yet; what turns out wrong leaves it again. `eta_s`: until this node is done, None while nobody can tell."""

    node: str
    state: ResidencyState
    files_total: int
    files_done: int
    bytes_total: int
    bytes_done: int
    bytes_coming: int = 0
    rate_bps: float = 0.0
    eta_s: float | None = None
    failures: tuple[Failure, ...] = ()


class Job(Wire):
    """A warm or a free. `done` means N of N on every chosen node, resident and verified (or all released).

    `bytes_done`: that every chosen node has. `bytes_coming`: what each of them has received on top and not checked, or not marked, yet.
    `eta_s`: until the slowest node is done, as of now; None while nobody can tell.
    `cause`: why it was begun, where no person asked for it.
    """

    id: str
    kind: Literal["warm", "free"]
    dataset: str
    tag: str
    version: str
    state: JobState
    files_total: int
    files_done: int
    bytes_total: int
    bytes_done: int
    bytes_coming: int = 0
    rate_bps: float = 0.0
    eta_s: float | None = None
    created_ns: int
    ended_ns: int | None = None
    nodes: tuple[NodeProgress, ...] = ()
    failures: tuple[Failure, ...] = ()
    error: str | None = None
    cause: str | None = None


class DesiredVersion(Wire):
    """`list_id` names a file list (GET /v1/lists/{id}); None means the whole version.

    `nodes`: the selector of the warm; among the holders that it picks the packs are shared out. `placement`, `copies`, `priority`,
    `bandwidth_bps`: as in WarmRequest. `paused`: its warm was cancelled; nothing more is fetched, and what is there goes when room is
    needed.
    """

    dataset: str
    tag: str
    version: str
    list_id: str | None = None
    pinned: bool = False
    job: str | None = None
    nodes: str = "all"
    placement: Placement = "all"
    copies: int = Field(default=1, ge=1, le=16)
    priority: int = Field(default=0, ge=-100, le=100)
    bandwidth_bps: int | None = Field(default=None, gt=0)
    paused: bool = False


class Desired(Wire):
    """The whole desired residency of one node. `generation` grows with each change to it."""

    node: str
    generation: int
    versions: tuple[DesiredVersion, ...] = ()


class GroupNode(Wire):
    """A node as its peers see it. `weight`: bytes of quota that it offers, 0 for a client. `joined_ns`: when it became a member.

    `alive`: heard of within the time that a member may be away and keep its share.
    """

    node: str
    address: str
    peer_address: str | None = None
    role: Role
    labels: dict[str, str] = Field(default_factory=dict)
    weight: int = Field(default=0, ge=0)
    draining: bool = False
    alive: bool = True
    joined_ns: int = 0


class Held(Wire):
    """Which nodes hold which packs of a version: all that `nodes` selects, or `copies` of them each pack."""

    version: str
    list_id: str | None = None
    nodes: str = "all"
    placement: Placement = "all"
    copies: int = 1


class Group(Wire):
    """The cache group. `generation` grows when membership, weights, draining or liveness change; `revision` with anything in it.

    `settled`: the newest generation whose shares of all spread versions were resident; who held packs then, keeps them until the next.
    """

    generation: int
    revision: int = 0
    settled: int = 0
    nodes: tuple[GroupNode, ...] = ()
    held: tuple[Held, ...] = ()


class GroupAnswer(Wire):
    """`secret`: what members show each other. Kept where only the node can read it, and in no log."""

    group: Group
    secret: str | None = Field(default=None, repr=False)


class DirReport(Wire):
    path: str
    medium: Medium
    quota: int
    used: int
    free_on_disk: int
    state: Literal["normal", "unstable", "down"] = "normal"


class VersionReport(Wire):
    """What a node really holds of one version, checked. `group`: the generation of the group that its share was taken of (spread
    only); then totals are those of the share. `bytes_coming`: received and not checked, or not marked, yet. `eta_s`: how long the fetch
    that runs still takes, at the rate at which bytes come (`rate_bps`). `pinned`: it is kept from eviction; `pinned_by`,
    `pinned_ns`: who did that and when, where control says it and knows it."""

    dataset: str
    tag: str
    version: str
    list_id: str | None = None
    state: ResidencyState
    files_total: int
    files_resident: int
    bytes_total: int
    bytes_resident: int
    bytes_coming: int = 0
    rate_bps: float = 0.0
    eta_s: float | None = None
    failures: tuple[Failure, ...] = ()
    group: int | None = None
    pinned: bool = False
    pinned_by: str | None = None
    pinned_ns: int | None = None


class MountReport(Wire):
    dataset: str
    tag: str
    version: str
    target: str
    backend: Literal["kernel", "loop", "fuse"]


class VersionKey(Wire):
    """Which report: there is one for each version, or list of it, that a node holds."""

    dataset: str
    version: str
    list_id: str | None = None


class Heartbeat(Wire):
    """Sent every few seconds. `generation` is the desired generation that the node has seen. `peer_address`: HOST:PORT where it
    serves packs to peers.

    `session`: one run of the agent; `number`: of this heartbeat in it. `since` None: `versions` is all that the node holds. Else it
    is what changed after heartbeat `since`, and `gone` is what was reported then and no longer is (cacheengine/reporting.py).
    """

    model_config = _example(
        node="b1",
        idc="idc-b",
        address="http://10.1.2.3:8810",
        role="gpu",
        agent_version="0.1.0",
        boot_id="f3b1",
        generation=12,
        session="5f0c",
        number=41,
        since=40,
    )

    node: str
    idc: str
    address: str
    peer_address: str | None = None
    role: Role
    labels: dict[str, str] = Field(default_factory=dict)
    agent_version: str
    boot_id: str
    generation: int
    session: str = Field(default="", max_length=64)
    number: int = Field(default=0, ge=0)
    since: int | None = Field(default=None, ge=0)
    gone: tuple[VersionKey, ...] = ()
    dirs: tuple[DirReport, ...] = ()
    versions: tuple[VersionReport, ...] = ()
    mounts: tuple[MountReport, ...] = ()
    fetch_bps: float | None = None
    fetch_bps_spread: float | None = None
    hit_bytes: int = 0
    miss_bytes: int = 0
    store_bytes: int = 0
    store_requests: int = 0
    peer_bytes: int = 0


class HeartbeatReply(Wire):
    """`full`: control does not know what this heartbeat builds on; the next one must hold all versions, and may come at once.

    `interval_s`: how often to report; `fetching_s`: while it fetches.
    """

    generation: int
    full: bool = False
    interval_s: float = 2.0
    fetching_s: float = 2.0


class NodeState(Wire):
    """A node as the control service last heard of it. `versions_total` and `pinned_total` count versions, and those that are pinned,
    also where they are left out. `draining`: it hands over its shares, and gets no new ones."""

    node: str
    idc: str
    address: str
    role: Role
    labels: dict[str, str]
    alive: bool
    seen_ns: int
    dirs: tuple[DirReport, ...]
    versions: tuple[VersionReport, ...]
    versions_total: int = 0
    pinned_total: int = 0
    draining: bool = False
    mounts: tuple[MountReport, ...]
    fetch_bps: float | None = None
    hit_bytes: int = 0
    miss_bytes: int = 0
    store_bytes: int = 0
    store_requests: int = 0
    peer_bytes: int = 0


class Owner(Request):
    """Whose files a view shows, and their permissions; a directory has x where its files have r."""

    uid: int = Field(default=0, ge=0, lt=(1 << 32) - 1)
    gid: int = Field(default=0, ge=0, lt=(1 << 32) - 1)
    mode: int = Field(default=0o444, ge=0, le=0o777)


class MountRequest(Request):
    """Asked of an agent: mount `dataset@ref` at `target` (default `<mounts>/<dataset>@<tag>`)."""

    dataset: str
    ref: str = "latest"
    target: str | None = None
    backend: Literal["auto", "kernel", "loop", "fuse"] = "auto"
    only_warm: bool = False
    owner: Owner = Owner()


class MountAnswer(Wire):
    dataset: str
    tag: str
    version: str
    target: str
    backend: Literal["kernel", "loop", "fuse"]
    why: str
    files: int
    bytes: int
    packs_local: int
    packs_remote: int


class TraceRequest(Request):
    """Asked of an agent: read this file of one of its views, and say where its bytes came from."""

    path: str


class TracePart(Wire):
    """source: `page cache`, `disk`, `fetchfs` (resident, but served by it), `peer`, `store NAME`. seconds: what fetching took."""

    source: str
    bytes: int
    seconds: float | None = None


class Trace(Wire):
    """A file that was read: where it lies, and where its bytes came from. seconds: of the whole read."""

    path: str
    dataset: str
    tag: str
    backend: Literal["kernel", "loop", "fuse"]
    pack: str
    offset: int
    size: int
    seconds: float
    parts: tuple[TracePart, ...]


class UmountRequest(Request):
    target: str


class UmountAnswer(Wire):
    """A view that was taken down. `still_read`: somebody can still read it, in another mount namespace (a container that has a bind of
    it): its bytes are right and stay on the disk until then. `superblocks`: what the kernel calls it (/sys/fs/erofs), or its process.
    """

    target: str
    dataset: str = ""
    tag: str = ""
    version: str = ""
    still_read: bool = False
    superblocks: tuple[str, ...] = ()


class TokenRequest(Request):
    """`verbs`: any of read, warm, free, pin, publish, admin, node; `datasets`: name prefixes (`*` all)."""

    model_config = _example(name="training", verbs=["warm", "free"], datasets=["city"], cidr="10.0.0.0/8")

    name: str
    verbs: tuple[str, ...]
    datasets: tuple[str, ...] = ("*",)
    cidr: str | None = None


class TokenAnswer(Wire):
    """`token` is shown once, at creation."""

    name: str
    verbs: tuple[str, ...]
    datasets: tuple[str, ...]
    cidr: str | None = None
    token: str | None = None


class Setting(Wire):
    """A setting of the group. `value` is what holds; `chosen`: somebody set it."""

    key: str
    value: Any = None
    default: Any = None
    chosen: bool = False


class SettingRequest(Request):
    """Set `key` to `value` (None: back to its default). `dry_run`: only say what that would touch."""

    model_config = _example(key="bandwidth_bps", value=500_000_000, dry_run=True)

    key: str
    value: Any = None
    dry_run: bool = False


class RevertRequest(Request):
    """Undo the change of this number: its key becomes what it was before."""

    model_config = _example(number=1, dry_run=True)

    number: int
    dry_run: bool = False


class SettingChange(Wire):
    """Who changed what, when. `old`, `new` None: the default. `nodes`, `jobs`: what it touches; `says`: how.

    `number` None and `applied` False: it was only asked what it would touch.
    """

    number: int | None = None
    key: str
    old: Any = None
    new: Any = None
    who: str
    at_ns: int
    reverts: int | None = None
    applied: bool
    nodes: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()
    says: str = ""


class LinkBudget(Wire):
    """What a sync may send over a link: `share_bps` of `bps`, bytes a second (None: no limit), for the next `valid_s`.

    0: nothing may be sent in this hour. `syncs`: how many share the link.
    """

    source: str
    target: str
    bps: int | None = None
    share_bps: int | None = None
    syncs: int = 1
    valid_s: float = 60.0
