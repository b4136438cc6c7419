"""What the agent knows, and the files that let a killed one go on: desired.json (last desired), releasing.json, mounts.json,
mounted.json (order of mounts)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import structlog
from pydantic import Field, TypeAdapter

from cacheengine import metrics, state_files
from cacheengine import wanted as wants
from cacheengine.agent.ages import Ages
from cacheengine.fetching import progress
from cacheengine.fetching.progress import Progress
from cacheengine.node import NodeConfig
from cacheengine.packs import packcache
from cacheengine.packs.eviction import Key
from cacheengine.packs.have import write_durably
from cacheengine.packs.packcache import Cache
from cacheengine.peers import groupview
from cacheengine.peers.groupview import GroupView
from cacheengine.peers.peers import Peers
from cacheengine.views.superblocks import Leftover
from cacheengine.wire import (
    Desired,
    DesiredVersion,
    DirReport,
    Failure,
    Group,
    MountReport,
    Owner,
    ResidencyState,
    VersionReport,
    Wire,
)
from lake.assemblies import OpenNamed
from lake.errors import Explained
from lake.reading import no_other_store
from lake.stores import Store

MOST_FAILURES = 1000
EVICTED = "evicted to make room for another version: warm it again"

T = TypeVar("T")
log = structlog.get_logger()


@dataclass
class Status:
    """What is known of a version on this node. retry_ns: not before then (`steady_ns`), after a failure; tries: failures in a row.
    look_ns: whether it still is resident is looked at again then.

    group: generation of the group that the share was taken of, when it is shared out. was_resident: it was, for an earlier group.
    progress: of the fetch that runs.
    """

    desired: DesiredVersion
    state: ResidencyState = "waiting"
    files_total: int = 0
    files_resident: int = 0
    bytes_total: int = 0
    bytes_resident: int = 0
    failures: tuple[Failure, ...] = ()
    retry_ns: int = 0
    tries: int = 0
    look_ns: int = 0
    evicted: bool = False
    group: int | None = None
    was_resident: bool = False
    progress: Progress | None = None

    @property
    def given_up(self) -> bool:
        """Nothing is fetched for it, and what it holds may go."""
        return self.evicted or self.desired.paused

    def report(self) -> VersionReport:
        coming, eta_s = 0, None
        if self.progress is not None:
            coming = min(progress.on_the_way(self.progress), self.bytes_total - self.bytes_resident)
            eta_s = progress.eta_s(self.progress)
        return VersionReport(
            dataset=self.desired.dataset,
            tag=self.desired.tag,
            version=self.desired.version,
            list_id=self.desired.list_id,
            state=self.state,
            files_total=self.files_total,
            files_resident=self.files_resident,
            bytes_total=self.bytes_total,
            bytes_resident=self.bytes_resident,
            bytes_coming=max(0, coming),
            rate_bps=0.0 if self.progress is None else progress.rate(self.progress) or 0.0,
            eta_s=eta_s,
            failures=self.failures,
            group=self.group,
            pinned=self.desired.pinned,
        )


class MountRecord(Wire):
    """A view that the agent keeps mounted.

    held: packs that are, or since it was first mounted were, devices of it by themselves: the kernel reads them without asking,
    also for files that were opened before the view was replaced. remote: packs that fetchfs serves. served_by: number of each
    process of it that does → device number of its mount then. mounted_ns: only read, from agents that kept it here.
    """

    report: MountReport
    only_warm: bool = False
    owner: Owner = Owner()
    held: tuple[str, ...] = ()
    remote: tuple[str, ...] = ()
    served_by: dict[int, int] = Field(default_factory=dict)
    mounted_ns: int = 0


_MOUNTS = TypeAdapter(tuple[MountRecord, ...])
_VERSIONS = TypeAdapter(tuple[DesiredVersion, ...])
_STAMPS = TypeAdapter(dict[str, int])


def key_of(desired: DesiredVersion) -> Key:
    return Key(desired.dataset, desired.version, desired.list_id)


@dataclass(frozen=True)
class Lost:
    """Why the rows of a version are not known. for_good: it says that there are none, so that nothing can be wanted of it."""

    cause: str
    for_good: bool
    retry_ns: int


@dataclass
class Node:
    """All that the parts of one agent share. lock: held for every look at or change of the fields below it; short.

    space: held while leases are taken or bytes are taken away; mounting: by whoever mounts or unmounts. Order: mounting, space, lock.

    groups, secret: as in groupview.GroupView. expected: packs that the warm of a version will bring. others: stores of other IDCs.

    damaged: packs that lost members while views show them. files_seen: target → files of packs under the view, with inode and size.
    mounted_ns: version → stamp of its last mount. ages: how long packs have lain as they are.
    held: pack → bytes of it that were to go and did not, for somebody reads it. left: views that were unmounted and are read
    elsewhere. unsure: what is not known (`desired`, `mounts`) → why; while there is any, nothing is let go. lost_rows: see
    agent/rows.py.
    """

    config: NodeConfig
    cache: Cache
    store: Callable[[], Store]
    boot_id: str
    file_list: Callable[[DesiredVersion], list[str] | None] = lambda _: None
    open_named: OpenNamed = no_other_store
    others: Callable[[], Sequence[Store]] = lambda: ()
    hear_group: Callable[[], None] = lambda: None
    address: str = ""
    peer_address: str | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)
    space: threading.RLock = field(default_factory=threading.RLock)
    mounting: threading.RLock = field(default_factory=threading.RLock)
    wake: threading.Event = field(default_factory=threading.Event)
    ending: threading.Event = field(default_factory=threading.Event)
    stop_warm: threading.Event = field(default_factory=threading.Event)
    warming: Key | None = None
    dirs_reported: tuple[float, tuple[DirReport, ...]] = (float("-inf"), ())
    generation: int = -1
    desired: dict[Key, DesiredVersion] = field(default_factory=dict)
    statuses: dict[Key, Status] = field(default_factory=dict)
    mounts: dict[str, MountRecord] = field(default_factory=dict)
    mounted_ns: dict[str, int] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)
    last_errors: dict[str, str] = field(default_factory=dict)
    groups: tuple[Group, ...] = ()
    secret: str | None = field(default=None, repr=False)
    expected: dict[Key, frozenset[str]] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)
    files_seen: dict[str, dict[Path, tuple[int, int]]] = field(default_factory=dict)
    ages: Ages = field(default_factory=Ages)
    held: dict[str, int] = field(default_factory=dict)
    left: tuple[Leftover, ...] = ()
    unsure: dict[str, str] = field(default_factory=dict)
    lost_rows: dict[Key, Lost] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.peers = Peers(self.config.name, self.view)

    def view(self) -> GroupView:
        with self.lock:
            return GroupView(groups=self.groups, secret=self.secret)

    @property
    def group(self) -> Group | None:
        """The group as of now."""
        return self.groups[-1] if self.groups else None

    def failed(self, part: str, error: BaseException) -> None:
        """A background failure: into the log, a metric, and /healthz until the part works again."""
        metrics.background_failures.labels(part).inc()
        with self.lock:
            known = self.last_errors.get(part)
            self.last_errors[part] = str(error)
        if known != str(error):  # once, not every few seconds
            log.error("background_failure", part=part, error=str(error), kind=type(error).__name__)

    def works(self, part: str) -> None:
        with self.lock:
            was = self.last_errors.pop(part, None)
        if was is not None:
            log.info("works_again", part=part)


def _write(path: Path, adapter: TypeAdapter[tuple[Wire, ...]], values: Iterable[Wire]) -> None:
    write_durably(path, adapter.dump_json(tuple(values), indent=1))


def take_desired(node: Node, desired: Desired) -> None:
    """Let the node desire exactly this. What is no longer desired is released; a new job makes a failed version try again.

    Saved before it is told to anyone. Statuses change together with the generation, so that no report mixes two of them.
    """
    with node.lock:
        fresh = {key_of(version): version for version in desired.versions}
        write_durably(node.config.state_dir / "desired.json", desired.model_dump_json(indent=1).encode())
        for key, version in fresh.items():
            status = node.statuses.setdefault(key, Status(version))
            asked_again = version.job is not None and status.desired.job != version.job
            status.desired = version
            if status.state == "freeing" or (asked_again and status.state != "resident"):
                node.statuses[key] = Status(version)
            elif asked_again:
                status.look_ns = 0
            elif version.paused and status.state != "resident":
                status.state, status.failures = "waiting", ()
        for key, status in node.statuses.items():
            if key not in fresh:
                status.state, status.failures = "freeing", ()
        node.desired, node.generation = fresh, desired.generation
        node.unsure.pop("desired", None)
        save_releasing(node)
        if node.warming is not None and _stops(node, node.warming):
            node.stop_warm.set()
    metrics.generation.set(desired.generation)
    log.info("desired_taken", generation=desired.generation, versions=len(fresh))
    node.wake.set()


def _stops(node: Node, warming: Key) -> bool:
    """Whether the warm that runs should end: no longer wanted, or one that waits goes first. What it fetched stays."""
    wanted = node.desired.get(warming)
    if wanted is None or wanted.paused:
        return True
    return any(
        version.priority > wanted.priority and not version.paused and node.statuses[key].state == "waiting"
        for key, version in node.desired.items()
    )


def save_releasing(node: Node) -> None:
    """So that a killed agent still knows what it was letting go."""
    with node.lock:
        freeing = [status.desired for status in node.statuses.values() if status.state == "freeing"]
        _write(node.config.state_dir / "releasing.json", _VERSIONS, freeing)  # type: ignore[arg-type]


def save_mounts(node: Node) -> None:
    with node.lock:
        _write(node.config.state_dir / "mounts.json", _MOUNTS, node.mounts.values())  # type: ignore[arg-type]
        held = {key.version for key in node.statuses} | mounted_versions(node)
        node.mounted_ns = {version: at for version, at in node.mounted_ns.items() if version in held}
        write_durably(node.config.state_dir / "mounted.json", _STAMPS.dump_json(node.mounted_ns))


def note_mounted(node: Node, version: str) -> None:
    """It is the version that was mounted last: its stamp is later than all others, also when the clock was set back meanwhile."""
    with node.lock:
        node.mounted_ns[version] = max(time.time_ns(), 1 + max(node.mounted_ns.values(), default=0))


def load_state(node: Node) -> None:
    """Read what a former agent of this node left.

    A file that cannot be read is set aside and told (see state_files.py). What it may have held is then not known, and nothing is let
    go until it is: what is desired, until control says so; what is mounted, until the kernel's mounts and the records beside the views
    have told (`known_mounts.recover`).
    """
    folder = node.config.state_dir
    desired = _load(node, "desired.json", TypeAdapter(Desired))
    if desired is not None:
        node.desired = {key_of(version): version for version in desired.versions}
        node.generation = desired.generation
        node.statuses = {key: Status(version) for key, version in node.desired.items()}
    elif state_files.copies_of(folder / "desired.json"):
        node.unsure["desired"] = "what this node should hold is not known until control says it again"
    view = _load(node, groupview.path(folder).name, TypeAdapter(GroupView)) or GroupView()
    node.groups, node.secret = view.groups, view.secret
    for version in _load(node, "releasing.json", _VERSIONS) or ():
        if key_of(version) not in node.desired:
            node.statuses[key_of(version)] = Status(version, state="freeing")
    records = _load(node, "mounts.json", _MOUNTS)
    if records is None and state_files.copies_of(folder / "mounts.json"):
        node.unsure["mounts"] = "what is mounted is not known yet"
    node.mounts = {record.report.target: record for record in records or ()}
    node.mounted_ns = {record.report.version: record.mounted_ns for record in records or ()}
    stamps: dict[str, int] = _load(node, "mounted.json", _STAMPS) or {}
    node.mounted_ns |= stamps
    tell_set_aside(node)


def _load(node: Node, name: str, kind: TypeAdapter[T]) -> T | None:
    try:
        return state_files.load_json(node.config.state_dir / name, kind)
    except state_files.Unreadable as error:
        node.failed(f"state {name}", error)
        return None


def tell_set_aside(node: Node) -> None:
    """Have health name state files that could not be read, until a person has removed their copies."""
    found = {
        f"state {copy.name.partition(state_files.MARK)[0]}": copy
        for folder in (node.config.state_dir, node.config.state_dir / "images")
        for copy in state_files.list_set_aside(folder)
    }
    metrics.state_unreadable.set(len(found))
    with node.lock:
        told = [part for part in node.last_errors if part.startswith("state ")]
        doubts = dict(node.unsure)
    for part, copy in found.items():
        if part not in told:
            node.failed(part, state_files.explain_copy(copy))
    for part in told:
        if part not in found:
            node.works(part)
    for what in ("desired", "mounts"):
        if what in doubts:
            node.failed(
                what + " unknown",
                Explained(f"what is {what} of this node", doubts[what], "nothing is let go until then"),
            )
        else:
            node.works(what + " unknown")


def leased_packs(node: Node) -> set[str]:
    """Packs that mounted images point at: never touched. Those behind fetchfs are not among them: it checks before it reads."""
    with node.lock:
        held = {pack for record in node.mounts.values() for pack in record.held}
        return held.union(*(left.packs for left in node.left))


def mounted_versions(node: Node) -> set[str]:
    """Versions that are mounted here, or were, and are still read in another mount namespace."""
    with node.lock:
        return {record.report.version for record in node.mounts.values()} | {
            left.version for left in node.left
        }


def saved_wants(node: Node) -> dict[Key, wants.Want]:
    """What is known, from files of this node, of every desired version."""
    with node.lock:
        keys = list(node.desired)
    found = {key: wants.load_want(node.config.views, key.version, key.list_id) for key in keys}
    return {key: want for key, want in found.items() if want is not None}


def resident_of(node: Node, want: wants.Want, places: Sequence[int] | None = None) -> tuple[int, int]:
    """(files, bytes) that are resident and checked, from the records on disk. places: of these packs only."""
    files = size = 0
    for part in wants.read_packs(want, places):
        mask = packcache.resident(node.cache, part)
        files, size = files + int(mask.sum()), size + int(part.length[mask].sum())
    return files, size


def steady_ns() -> int:
    """For waits and ages of a running agent: the clock on the wall may jump."""
    return time.monotonic_ns()
