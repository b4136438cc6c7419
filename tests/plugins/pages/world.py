"""A small world with something of everything for the pages to show: published and synced versions, jobs of every kind, refused drives.

Stores and the control service of idc-b are real; its nodes are played here, through the control service's own API. idc-c is described
in the settings and does not answer.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from cacheengine.client import Control
from cacheengine.errors import CacheError
from cacheengine.wire import (
    Desired,
    DirReport,
    Failure,
    Heartbeat,
    Job,
    MountReport,
    VersionReport,
    WarmRequest,
)
from lake import catalog, quarantine
from lake.errors import NotFound
from lake.packs import put_pack, write_pack
from lake.publish import publish_query
from lake.quarantine import Finding
from lake.stores import Store
from lake.sync import sync

DATASET, SMALL = "frames-720p", "night-rain"
QUERY = "select * from frames where output = '720p'"
RAIN = "select * from frames where output = '720p' and drive like '%night%'"
CHANNELS = ("CAM_FRONT", "CAM_LEFT", "CAM_RIGHT")
GIB = 1 << 30
TOKEN = "a token of the tests that nobody guesses"


def add_drive(
    store: Store, folder: Path, vehicle: str, drive: str, frames: int, date: str = "2026-11-02"
) -> None:
    """Pack and catalogue the frames of a drive, the way that ingest leaves them."""
    source = random.Random(f"{vehicle}/{drive}")
    names = sorted(
        f"720p/{vehicle}/{drive}/{channel}/{at:019d}.jpg" for channel in CHANNELS for at in range(frames // 3)
    )
    pack = write_pack(
        folder / "pack.tar", [(name, source.randbytes(source.randint(9_000, 30_000))) for name in names]
    )
    put_pack(store, pack.id, folder / "pack.tar")
    members, count, recipe = pack.members, len(names), "ab" * 32
    fixed = {
        **{"drive": drive, "recipe": recipe, "pack": pack.id, "vehicle": vehicle, "is_key": True},
        **{"width": 1280, "height": 720, "date": date, "output": "720p"},
        **dict.fromkeys(("latitude", "longitude", "speed_mps")),
    }
    values = {
        "path": members["name"].to_pylist(),
        "content_id": members["content_id"].to_pylist(),
        "size": members["size"].to_pylist(),
        "offset": members["offset"].to_pylist(),
        "channel": [name.split("/")[3] for name in members["name"].to_pylist()],
        "timestamp_ns": list(range(count)),
        "frame_index": list(range(count)),
        "sample_id": [f"{drive}-{at}" for at in range(count)],
        **{name: [value] * count for name, value in fixed.items()},
    }
    table = pa.table({one.name: pa.array(values[one.name], one.type) for one in catalog.FRAME_SCHEMA})
    catalog.write_frames(store, table, date, vehicle, drive, recipe)


def publish_all(a: Store, b: Store, folder: Path) -> dict[str, str]:
    """Five versions in two datasets at idc-a, three of them synced to idc-b. `dataset@tag` → version id."""
    known: dict[str, str] = {}

    def publish(dataset: str, query: str, run: str, tag: str | None = None) -> None:
        origin = {"by": "airflow", "dag": "publish_dataset", "run": run, "idc": "idc-a"}
        made = publish_query(a, dataset, query, folder / "scratch", origin, tag)
        known[f"{dataset}@{made.tag}"] = made.version

    (folder / "scratch").mkdir(exist_ok=True)
    for at, drive in enumerate(("2026-11-02-morning", "2026-11-02-night", "2026-11-03-morning")):
        add_drive(a, folder, f"car-{at % 2 + 1:02d}", drive, 60)
    publish(DATASET, QUERY, "manual__2026-11-04T02:00:00+00:00")
    publish(SMALL, RAIN, "api__night-rain-1")
    add_drive(a, folder, "car-02", "2026-11-04-night", 90, "2026-11-04")
    publish(DATASET, QUERY, "nightly__frames-720p__scheduled__2026-11-05", "prod")
    add_drive(a, folder, "car-03", "2026-11-05-morning", 120, "2026-11-05")
    publish(
        DATASET,
        f"{QUERY} and not (drive = '2026-11-02-morning' and channel = 'CAM_LEFT')",
        "nightly__frames-720p__scheduled__2026-11-06",
    )
    publish(SMALL, RAIN, "api__night-rain-2")
    add_drive(a, folder, "car-01", "2026-11-06-dusk", 75, "2026-11-06")
    publish(DATASET, QUERY, "nightly__frames-720p__scheduled__2026-11-07")
    for name in (f"{DATASET}@v1", f"{DATASET}@v2", f"{DATASET}@v3", f"{SMALL}@v1"):
        dataset, _, tag = name.partition("@")
        sync(a, b, dataset, tag, folder / "sync")
    return known


REFUSED = (
    (
        "car-01",
        "2026-11-06-rain",
        [
            Finding(
                "broken-container",
                "error",
                "CAM_FRONT.mp4",
                "the box moov ends at byte 48,211, the file at 31,004",
            ),
            Finding("checksum", "error", "CAM_FRONT.mp4", "sha256 is 5c1f…, COMPLETE.json says 9a02…"),
        ],
    ),
    (
        "car-02",
        "2026-11-06-night",
        [
            Finding("missing-channel", "error", "", "the profile of car-02 has CAM_LEFT, the drive has not"),
            Finding(
                "clock-from-container",
                "warning",
                "CAM_FRONT.mp4",
                "no time in the stream: taken from the container",
                True,
            ),
        ],
    ),
    (
        "car-02",
        "2026-11-07-morning",
        [
            Finding(
                "gap",
                "error",
                "GNSS.mcap",
                "no message for 41.2 s after 2026-11-07 06:12:09 UTC; 1.0 s are allowed",
            ),
        ],
    ),
    (
        "car-03",
        "2026-11-07-dusk",
        [
            Finding(
                "cut-off",
                "error",
                f"CAM_{side}.mkv",
                f"it ends inside a cluster, {at * 7 + 3} s before its last index entry",
            )
            for at, side in enumerate(("FRONT", "LEFT", "RIGHT", "BACK"))
        ],
    ),
    (
        "car-03",
        "2026-11-08-night",
        [
            Finding(
                "black-frames",
                "error",
                "CAM_BACK.mp4",
                '<img src=x onerror="alert(1)"> 812 of 900 frames are black',
            ),
        ],
    ),
)


def refuse(store: Store) -> None:
    """Five drives in quarantine; the last one's evidence is written by someone hostile."""
    for vehicle, drive, findings in REFUSED:
        quarantine.add(store, vehicle, drive, findings, f"{abs(hash((vehicle, drive))):064x}"[:64])


@dataclass
class Nodes:
    """Nodes of idc-b: what they hold follows what they should hold, at the pace and with the faults set here.

    moving: version → part that is resident (it grows by `pace` a second); failing: version → the node that cannot.
    """

    url: str
    names: tuple[str, ...] = ("b1", "b2", "b3", "b4", "b5")
    moving: dict[str, float] = field(default_factory=dict)
    failing: dict[str, str] = field(default_factory=dict)
    pace: float = 0.004
    totals: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    error: Exception | None = None
    _stop: threading.Event = field(default_factory=threading.Event)
    _started: float = field(default_factory=time.monotonic)

    def run(self, stop_after_s: float = 3600) -> threading.Thread:
        """Heartbeats until stopped, in a thread of their own."""
        thread = threading.Thread(target=self._beat_on, args=(time.monotonic() + stop_after_s,), daemon=True)
        thread.start()
        return thread

    def stop(self) -> None:
        self._stop.set()

    def _beat_on(self, end: float) -> None:
        with Control(self.url, TOKEN) as control:
            while not self._stop.wait(0.5) and time.monotonic() < end:
                try:
                    self.beat(control)
                except CacheError as error:  # shown by the test that misses a heartbeat
                    self.error = error

    def beat(self, control: Control, names: tuple[str, ...] | None = None) -> None:
        """One heartbeat of each node."""
        for place, node in enumerate(names or self.names):
            try:
                desired = control.desired(node)
            except NotFound:  # before the first heartbeat
                desired = Desired(node=node, generation=0)
            control.heartbeat(self.heartbeat(node, place, desired))

    def heartbeat(self, node: str, place: int, desired: Desired) -> Heartbeat:
        versions = tuple(self._report(node, place, item) for item in desired.versions)
        used = sum(report.bytes_resident for report in versions)
        mounted = tuple(
            MountReport(
                dataset=v.dataset,
                tag=v.tag,
                version=v.version,
                target=f"/mnt/{v.dataset}@{v.tag}",
                backend="kernel",
            )
            for v in versions[:1]
            if v.state == "resident" and node in ("b1", "b2")
        )
        return Heartbeat(
            node=node,
            idc="idc-b",
            address=f"10.2.0.{place + 11}:8900",
            role="cache" if node in ("b5", "b6") else "gpu",
            labels={"rack": f"r{place % 2 + 1}", "gpu": "h100"}
            if node not in ("b5", "b6")
            else {"rack": "r9"},
            agent_version="1",
            boot_id="1",
            generation=desired.generation,
            dirs=(
                DirReport(
                    path="/cache/0", medium="nvme", quota=24 << 20, used=used // 2, free_on_disk=300 * GIB
                ),
                DirReport(
                    path="/cache/1",
                    medium="nvme",
                    quota=24 << 20,
                    used=used - used // 2,
                    free_on_disk=290 * GIB,
                    state="unstable" if node == "b4" else "normal",
                ),
            ),
            versions=versions,
            mounts=mounted,
            fetch_bps=(180 + 23 * place) * 1e6,
            hit_bytes=(940 + 11 * place) * GIB,
            miss_bytes=(9 + 7 * place) * GIB,
            store_bytes=used,
            store_requests=used // 400_000,
        )

    def _report(self, node: str, place: int, item: object) -> VersionReport:
        dataset, tag, version, list_id = (
            getattr(item, name) for name in ("dataset", "tag", "version", "list_id")
        )
        files, size = self.totals[version]
        part, failures, state = 1.0, (), "resident"
        if version in self.moving:
            part = min(
                0.97, self.moving[version] + 0.07 * place + self.pace * (time.monotonic() - self._started)
            )
            state = "fetching"
        if self.failing.get(version) == node:
            part, state = 0.98, "failed"
            failures = tuple(
                Failure(
                    path=f"720p/car-01/2026-11-02-night/CAM_FRONT/{at:019d}.jpg",
                    cause="the store gave 4,096 of 21,377 bytes",
                )
                for at in (3, 17)
            )
        return VersionReport(
            dataset=dataset,
            tag=tag,
            version=version,
            list_id=list_id,
            state=state,  # type: ignore[arg-type]
            files_total=files,
            files_resident=int(files * part),
            bytes_total=size,
            bytes_resident=int(size * part),
            rate_bps=0.0 if state != "fetching" else size * self.pace,
            failures=failures,
        )


def warm_all(nodes: Nodes, known: Mapping[str, str], wait_s: float = 30) -> dict[str, Job]:
    """One warm that is done, one that failed, one under way. name → Job."""
    jobs: dict[str, Job] = {}
    with Control(nodes.url, TOKEN) as control:
        nodes.beat(control, (*nodes.names, "b6"))  # b6 falls silent after this
        chosen = ",".join(nodes.names)
        for name, ref, expected in (
            ("done", f"{DATASET}@v2", "done"),
            ("failed", f"{SMALL}@v1", "failed"),
            ("running", f"{DATASET}@v3", "running"),
        ):
            version = known[ref]
            if name == "failed":
                nodes.failing[version] = "b5"
            if name == "running":
                nodes.moving[version] = 0.2
            dataset, _, tag = ref.partition("@")
            job = control.warm(WarmRequest(dataset=dataset, ref=tag, nodes=chosen))
            end = time.monotonic() + wait_s
            while job.state != expected:
                assert time.monotonic() < end, f"the job is {job.state}: {job.error}"
                nodes.beat(control)
                job = control.job(job.id)
            jobs[name] = job
    return jobs
