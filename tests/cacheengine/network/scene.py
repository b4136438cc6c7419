"""A warm group with a reader on each node: what the tests of faults start from, and how they know that it is whole again."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import groups
from benchmarks.groups import Group
from cacheengine.wire import WarmRequest
from lake.config import StoreConfig
from lake.errors import Explained
from lake.stores import Store, open_store
from tests.cacheengine.network.reader import Readers, Seen, reading
from tests.cacheengine.nodes import Dataset, make_files, publish
from tests.conftest import wait_until

# short, so that a test need not wait long for what a group notices in half a minute
CONTROL = {
    "HEARTBEAT_INTERVAL_S": "0.5",
    "DEAD_AFTER_S": "3",
    "DEAD_GRACE_S": "60",
    "MEMBER_AWAY_S": "4",
    "POLL_S": "0.2",
}
ROWS = "OUTLAP_FAULT_ROWS"


@dataclass
class Scene:
    """source: the folder store in which the desk publishes before it uploads. warmed: what every node should hold."""

    group: Group
    folder: Path
    source: Store
    warmed: list[Dataset] = field(default_factory=list)
    views: dict[str, Path] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)


@contextmanager
def scene(folder: Path, nodes: int, files: int = 240) -> Iterator[Scene]:
    """n1 … nN, each with all of a dataset `frames`, and a view of it."""
    with groups.group(folder / "group", CONTROL) as group:
        source = open_store(StoreConfig(name="source", idc=groups.IDC, url=f"file://{folder / 'source'}"))
        made = Scene(group, folder, source)
        names = [f"n{number + 1}" for number in range(nodes)]
        for name in names:
            groups.add_node(group, name, fetch_concurrency=4)
        data = publish_there(made, make_files(files, 1, 60_000), "frames")
        groups.start_agents(group, names)
        warm(made, data)
        for name in names:
            show(made, name, data)
        yield made


def publish_there(scene: Scene, files: Mapping[str, bytes], name: str) -> Dataset:
    data = publish(scene.source, scene.folder, dict(files), name)
    groups.upload(scene.group, scene.source)
    return data


def warm(scene: Scene, data: Dataset, **how: object) -> None:
    """To its end. how: fields of WarmRequest; on all nodes, whole, where it says nothing else."""
    request = WarmRequest(dataset=data.name, ref=data.tag).model_copy(update=how)
    job = groups.warm(scene.group, request)
    assert (job.state, job.error, job.failures) == ("done", None, ())
    if data not in scene.warmed:
        scene.warmed.append(data)


def show(scene: Scene, name: str, data: Dataset) -> Path:
    """A view of it on a node; readers of the scene will read it."""
    scene.views[name] = groups.mount(scene.group, name, data.name, data.tag)
    return scene.views[name]


@contextmanager
def readers(scene: Scene, names: list[str] | None = None) -> Iterator[Readers]:
    """A reader on the view of each node (or of those), for as long as the context lasts."""
    views = {name: scene.views[name] for name in names or scene.views}
    folder = scene.folder / f"readers-{time.monotonic_ns()}"
    with reading(views, scene.warmed[0].files, folder) as found:
        yield found


def is_whole(scene: Scene, names: list[str] | None = None, since_ns: int = 0) -> bool:
    """Whether every node has told control since then that it holds all that was warmed."""
    expected = set(names or scene.views)
    try:
        states = {state.node: state for state in groups.states(scene.group)}
    except Explained:
        return False
    for name in expected:
        if name not in states or not states[name].alive or states[name].seen_ns < since_ns:
            return False
        held = {r.version: r for r in states[name].versions if r.state == "resident"}
        for data in scene.warmed:
            if data.version not in held or held[data.version].files_resident != len(data.files):
                return False
    return True


def until_whole(
    scene: Scene, names: list[str] | None = None, within_s: float = 120, start: float | None = None
) -> float:
    """Seconds from `start` (time.monotonic(), default now) until it is, by what nodes tell from now on."""
    start, since_ns = start if start is not None else time.monotonic(), time.time_ns()
    wait_until(lambda: is_whole(scene, names, since_ns), "the group to be whole", within_s)
    return time.monotonic() - start


def tell(fault: str, seen: Seen, seconds: float, **more: object) -> None:
    """One row of the table of faults: printed, and appended to the file that $OUTLAP_FAULT_ROWS names."""
    row = {"fault": fault, "readers": str(seen), "seconds_until_whole": round(seconds, 1), **more}
    print(json.dumps(row))
    if file := os.environ.get(ROWS):
        with Path(file).open("a") as out:
            out.write(json.dumps(row) + "\n")


def assert_right(seen: Seen) -> None:
    """Every byte was right, and there was no error."""
    assert seen.right > 0
    assert (seen.wrong, seen.errors) == (0, 0), seen.causes
