"""Leases under pauses, kills and clocks that differ: what is named and available is whole, whoever was stopped where."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest

from lake import erasure, fenced_deletes, garbage, leases, publish, refs, repack, stores, sync, versions
from lake.config import StoreConfig
from lake.errors import Conflict, LakeError, NotFound
from tests.conftest import wait_until
from tests.lake.frames import cut
from tests.lake.test_keeping import keys, publish_files, readable
from tests.wallclock import wall_clock

OLD = {"x": b"shared" * 500, "y": b"one" * 300}


@pytest.fixture(autouse=True)
def short(monkeypatch, tmp_path):
    """Leases of a moment, and a home of its own."""
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path / "no-home"))
    monkeypatch.setattr(leases, "LEASE_S", 0.3)


def named_versions(store):
    return {ref.version for name in refs.list_datasets(store) for ref in refs.list_refs(store, name)}


def whole(store):
    """Every version that a tag names and that is available can be read; so can every other one that is said to be available."""
    for key in [key for key in keys(store) if key.startswith("available/")]:
        readable(store, key.removeprefix("available/").removesuffix(".json"))


def untag(store, dataset):
    """Take the tags away without the trash, so that what they named is garbage."""
    for ref in refs.list_refs(store, dataset):
        stores.delete(store, refs.ref_key(dataset, ref.tag))


def make_due(store, tmp_path):
    """Mark what is garbage now, so that the next run without a grace deletes it."""
    garbage.collect(store, tmp_path / "gc", dry_run=False, grace_days=1)


def collect(store, tmp_path):
    return garbage.collect(store, tmp_path / "gc", dry_run=False, grace_days=0)


class Stopped:
    """Stops a process (a thread with a handle of its own) before its nth write, its renewals too, until `go`."""

    def __init__(self, monkeypatch, store, at, *, at_reads=False):
        self.store = replace(store, kept=None)
        self.left, self.reached, self.resumed = at, threading.Event(), threading.Event()
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None
        self.result: Any = None
        names = ("put", "put_if_absent", "put_file", "compare_and_swap", "delete")
        names += ("get", "head", "get_with_info", "list_objects") if at_reads else ()
        for name in names:
            monkeypatch.setattr(stores, name, self._stopping(getattr(stores, name)))
        monkeypatch.setattr(leases, "delete_fenced", self._stopping(leases.delete_fenced))
        self._locked = threading.local()
        monkeypatch.setattr(stores, "folder_lock", self._noting(stores.folder_lock))

    def _noting(self, real):
        """Whoever holds the lock of a directory is not stopped: others fail then, and that is all."""

        @contextmanager
        def call(store, key):
            with real(store, key) as path:
                self._locked.it = True
                try:
                    yield path
                finally:
                    self._locked.it = False

        return call

    def _stopping(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(store, *args, **more):
            is_locked = getattr(self._locked, "it", False)
            if store is self.store and not self.resumed.is_set() and not is_locked:
                if threading.current_thread().name != "lease":
                    self.left -= 1
                if self.left < 0:
                    self.reached.set()
                    self.resumed.wait(60)
            return real(store, *args, **more)

        return call

    def run(self, work: Callable[[stores.Store], Any]) -> bool:
        """Start the work; True when it was stopped, False when it ended before."""

        def body():
            try:
                self.result = work(self.store)
            except LakeError as error:
                self.error = error

        self.thread = threading.Thread(target=body)
        self.thread.start()
        while not self.reached.wait(0.01):
            if not self.thread.is_alive():
                return False
        return True

    def go(self):
        self.resumed.set()
        self.thread.join(120)
        assert not self.thread.is_alive()


@dataclass
class Case:
    """store: in which the work is stopped; work(store): what is done; done: whether its promise holds."""

    store: stores.Store
    work: Callable[[stores.Store], Any]
    done: Callable[[], None]


def publish_case(make, tmp_path):
    """The pack of the new version was garbage that is due before the publish counts on it."""
    store = make()
    made = publish_files(store, tmp_path, "old", OLD)
    publish_files(store, tmp_path, "other", {"z": b"1"})
    untag(store, "old")
    make_due(store, tmp_path)

    def done():
        assert readable(store, refs.resolve(store, "new").version) == OLD

    assert made.tag == "v1"
    return Case(store, lambda handle: publish_files(handle, tmp_path, "new", OLD), done)


def sync_case(make, tmp_path, is_there=False):
    """The target has the packs as garbage that is due. is_there: and the word that the version is there."""
    source, target = make("a"), make("b")
    publish_files(source, tmp_path, "d", OLD)
    sync.sync(source, target, "d", "latest", tmp_path / "s")
    (pack,) = [use.id for use in versions.read_available(target, refs.resolve(target, "d").version).packs]
    untag(target, "d")
    cut(source, tmp_path, "d1", 3)
    pieces = [*next(iter(versions.rows(source, refs.resolve(source, "d").version))).to_pylist()]
    assert {row["pack"] for row in pieces} == {pack}
    both = publish.publish_query(source, "both", "select * from frames", tmp_path, {})
    sync.sync(source, target, "both", "latest", tmp_path / "s")
    untag(target, "both")
    if not is_there:
        stores.delete(target, versions.available_key(both.version))
    make_due(target, tmp_path)

    def done():
        assert len(readable(target, refs.resolve(target, "both").version)) == both.files

    return Case(target, lambda handle: sync.sync(source, handle, "both", "latest", tmp_path / "s"), done)


def repack_case(make, tmp_path):
    """The pack that the repack makes is there as garbage that is due."""
    store = make()
    files = {}
    for drive in ("d1", "d2"):
        files |= cut(store, tmp_path, drive, 20, size=9000)
    made = publish.publish_query(
        store, "thin", "select * from frames where frame_index % 5 = 0", tmp_path, {}
    )
    first = versions.read_available(store, made.version)
    repack.repack(store, made.version, tmp_path / "r")
    versions.write_available(store, first)
    make_due(store, tmp_path)

    def done():
        found = readable(store, made.version)
        assert len(found) == 8 and all(files[path] == data for path, data in found.items())

    return Case(store, lambda handle: repack.repack(handle, made.version, tmp_path / "r"), done)


def collect_case(make, tmp_path):
    """While the collector is stopped, what it was to delete is published again."""
    store = make()
    publish_files(store, tmp_path, "old", OLD)
    publish_files(store, tmp_path, "other", {"z": b"1"})
    untag(store, "old")
    make_due(store, tmp_path)

    def done():
        for version in named_versions(store):
            assert readable(store, version)

    return Case(store, lambda handle: collect(handle, tmp_path), done)


def delete_case(make, tmp_path):
    """While the deletion of a drive is stopped, versions of other drives are published."""
    store = make()
    for drive in ("d1", "d2"):
        cut(store, tmp_path, drive, 3)
    publish.publish_query(store, "all", "select * from frames", tmp_path, {})

    def done():
        assert {row.split("/")[2] for row in readable(store, refs.resolve(store, "all").version)} == {"d2"}

    return Case(
        store, lambda handle: erasure.erase_drive(handle, "car", "d1", tmp_path / "e", dry_run=False), done
    )


CASES = {
    "publish": publish_case,
    "sync": sync_case,
    "sync of what is there": partial(sync_case, is_there=True),
    "repack": repack_case,
    "delete": delete_case,
}


def stopped_everywhere(case_of, make, tmp_path, monkeypatch, beside, *, at_reads=False, step=1):
    """Stop the work before each of its writes in turn, do something beside it, let it go on, and hold what must hold."""
    at = 0
    while True:
        here = tmp_path / f"at-{at}"
        here.mkdir()
        case = case_of(lambda name="lake", at=at: make(f"{name}-{at}"), here)
        with monkeypatch.context() as patch:
            stopped = Stopped(patch, case.store, at, at_reads=at_reads)
            was_stopped = stopped.run(case.work)
            if was_stopped:
                beside(case.store, here)
            stopped.go()
        whole(case.store)
        if stopped.error is None:
            case.done()
        else:
            assert isinstance(stopped.error, (Conflict, NotFound)), stopped.error
        if not was_stopped:
            return at
        case.work(case.store)  # again, and it is done
        case.done()
        whole(case.store)
        at += step


def collect_until_done(store, tmp_path):
    """A collector that comes again until it is not held off any more: then it has broken the lease of whoever is stopped."""

    def is_done():
        try:
            return not collect(store, tmp_path).held_by
        except Conflict:
            return False  # one that is stopped deletes: only a writer that waits for it breaks its lease

    wait_until(is_done, "the collector")


def publish_beside(store, tmp_path):
    """A publish that needs what is being deleted. It waits for whoever deletes, and breaks its lease when it is not renewed."""
    publish_files(store, tmp_path, "beside", OLD)


@pytest.mark.fault("C2")
@pytest.mark.parametrize("name", CASES)
def test_stopped_before_any_write_with_a_collector_beside(name, make_folder_store, tmp_path, monkeypatch):
    stops = stopped_everywhere(CASES[name], make_folder_store, tmp_path, monkeypatch, collect_until_done)
    assert stops >= 4


@pytest.mark.fault("C3")
@pytest.mark.parametrize("name", ["collect", "delete"])
def test_stopped_before_any_delete_with_a_publish_beside(name, make_folder_store, tmp_path, monkeypatch):
    case_of = {"collect": collect_case, "delete": delete_case}[name]
    stops = stopped_everywhere(case_of, make_folder_store, tmp_path, monkeypatch, publish_beside)
    assert stops > 5


@pytest.mark.slow
@pytest.mark.fault("C2", "C3")
@pytest.mark.parametrize("name", [*CASES, "collect"])
def test_stopped_before_any_request(name, make_folder_store, tmp_path, monkeypatch):
    case_of = (CASES | {"collect": collect_case})[name]
    for beside in (collect_until_done, publish_beside):
        folder = tmp_path / beside.__name__
        folder.mkdir()
        make = lambda store, kind=beside.__name__: make_folder_store(f"{kind}-{store}")  # noqa: E731
        stopped_everywhere(case_of, make, folder, monkeypatch, beside, at_reads=True)


@pytest.mark.fault("C2")
def test_a_lease_is_renewed_while_work_goes_on_and_a_broken_one_is_seen(make_folder_store, monkeypatch):
    store = make_folder_store()
    with leases.writing(store, "the sync of b@v1") as lease:
        texts = {stores.get(store, lease.key)}
        wait_until(lambda: texts.add(stores.get(store, lease.key)) or len(texts) > 3, "renewals")
        with leases.deleting(store) as deletion:
            assert deletion.writers == ["the sync of b@v1"]
        first = lease.key
        stores.delete(store, lease.key)
        assert lease.was_broken()
        wait_until(lambda: not lease.renew(), "the renewal to find that out")
        assert not stores.exists(store, first), "a renewal brings no lease back"
        lease.take_again()
        assert lease.key != first and not lease.was_broken()
    assert [key for key in keys(store) if key.startswith("leases/")] == []


@pytest.mark.fault("C2", "C3")
def test_a_collector_whose_lease_is_broken_deletes_nothing_more(make_store, monkeypatch):
    """In a real store: a delete that was signed in time is refused by the store when it comes late."""
    monkeypatch.setattr(leases, "LEASE_S", 9.0)
    store = make_store()
    stores.put(store, "a", b"1")
    stores.put(store, "b", b"2")
    judged = stores.head(store, "b")
    send, stopped = fenced_deletes.urllib.request.urlopen, []

    def late(request, timeout):
        """What a process that was stopped just before it sends does: nobody renews, and the request comes seconds late."""
        if not stopped:
            stopped.append(time.monotonic())
            lease.stop()
            wait_until(lambda: leases.boot_s() - lease.renewed_s > 8, "the end of what was signed")
        return send(request, timeout=timeout)

    with leases.deleting(store) as lease:
        assert lease.delete("a") and not stores.exists(store, "a")
        stores.put(store, "b", b"another")
        assert not lease.delete("b", judged), "it is not the one that was judged"
        monkeypatch.setattr(fenced_deletes.urllib.request, "urlopen", late)
        with pytest.raises(leases.LeaseLost):
            lease.delete("b")
        assert stopped, "it was signed"
    assert stores.get(store, "b") == b"another"


@pytest.mark.fault("C3")
def test_leases_of_earlier_releases_and_of_whoever_was_killed(make_folder_store, monkeypatch):
    store = make_folder_store()
    old = {"what": "the publish of d", "until_ns": 1, "of": "x"}  # by a clock that is far behind
    stores.put(store, f"{leases.PREFIX}ab.json", json.dumps(old).encode())
    with leases.deleting(store) as lease:
        assert lease.writers == ["the publish of d"], "its age counts, by the store's clock"
    monkeypatch.setattr(leases, "OLD_WRITE_S", 0)
    with leases.deleting(store) as lease:
        assert lease.writers == [] and keys(store) == {leases.DELETING}
    stores.put(store, leases.DELETING, json.dumps(old | {"what": "garbage collection"}).encode())
    with pytest.raises(Conflict, match="garbage collection"), leases.deleting(store):
        pass
    monkeypatch.setattr(leases, "OLD_DELETE_S", 0)
    with leases.writing(store, "the publish of e"):
        assert leases.writers(store) == ["the publish of e"]


BESIDE = """
import sys
from pathlib import Path
from lake import garbage, leases, publish, stores
from lake.config import StoreConfig
leases.LEASE_S = 1.5
store = stores.open_store(StoreConfig.model_validate_json(sys.argv[2]))
folder = Path(sys.argv[3])
if sys.argv[1] == "hold":
    with leases.writing(store, "work"):
        print("held", flush=True)
        sys.stdin.readline()
elif sys.argv[1] == "collect":
    print(garbage.collect(store, folder / "gc", dry_run=False, grace_days=-1).held_by, flush=True)
else:
    print(publish.publish_folder(store, "new", folder / "files", folder, {}).version, flush=True)
"""


def process(what, config, folder, clock=None):
    env = os.environ | (clock or {})
    command = [sys.executable, "-c", BESIDE, what, config.model_dump_json(), str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=env, text=True, **pipes)


@pytest.mark.fault("C2", "C3")
@pytest.mark.parametrize("off_s", [-3 * 3600, 3 * 3600])
def test_clocks_that_differ_by_hours(make_folder_store, tmp_path, off_s):
    """A writer whose clock is off: a live one holds deletion off, a killed one does not; and so for a collector."""
    store = make_folder_store()
    config = StoreConfig(name="lake", idc="idc-a", url=store.where)
    publish_files(store, tmp_path, "old", OLD)
    untag(store, "old")
    make_due(store, tmp_path)
    clock, _ = wall_clock(tmp_path, off_s)
    holder = process("hold", config, tmp_path, clock)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    time.sleep(2)  # longer than a lease: it lives by its renewals
    assert collect(store, tmp_path).held_by == ("work",)
    holder.send_signal(signal.SIGSTOP)
    wait_until(lambda: not collect(store, tmp_path).held_by, "the lease of a stopped process to end")
    holder.kill()
    holder.communicate()
    assert not [key for key in keys(store) if key.startswith(("packs/", "available/", "leases/"))]
    # a collector whose clock is off
    publish_files(store, tmp_path, "old", OLD)
    untag(store, "old")
    make_due(store, tmp_path)
    with leases.writing(store, "mine"):
        collector = process("collect", config, tmp_path, clock)
        assert collector.communicate(timeout=60)[0] == "('mine',)\n"


@pytest.mark.slow
@pytest.mark.fault("C2", "C3")
def test_processes_stopped_at_any_moment_beside_a_collector(make_store, store_config, tmp_path, monkeypatch):
    """Real processes on a real store, stopped and killed at moments that nobody chose: what is named is whole."""
    monkeypatch.setattr(leases, "LEASE_S", 1.5)
    config = store_config()
    store = stores.open_store(config)
    (tmp_path / "files").mkdir()
    for name, data in OLD.items():
        (tmp_path / "files" / name).write_bytes(data)
    for number in range(8):
        publish_files(store, tmp_path, "old", OLD)
        untag(store, "old")
        make_due(store, tmp_path)
        writer, collector = process("publish", config, tmp_path), process("collect", config, tmp_path)
        for one in (writer, collector):
            time.sleep(0.6 + 0.15 * number)  # the moment of the stop, not a wait for anything
            if one.poll() is None:
                one.send_signal(signal.SIGSTOP)
        collect_or_wait(store, tmp_path)
        for one in (writer, collector):
            if one.poll() is None:
                one.send_signal(signal.SIGKILL if number % 2 else signal.SIGCONT)
        done = writer.communicate(timeout=120)
        collector.communicate(timeout=120)
        whole(store)
        if writer.returncode == 0:
            assert readable(store, refs.resolve(store, "new").version) == OLD, done
        untag(store, "new")


def collect_or_wait(store, tmp_path):
    try:
        collect(store, tmp_path)
    except LakeError:
        return  # another one deletes
