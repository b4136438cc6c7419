"""Peers: only what is resident is served, and a peer that misbehaves costs time and no more."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from cacheengine import metrics, wanted
from cacheengine.fetching import fetch, pace
from cacheengine.fetching.fetch import PackJob, Sources
from cacheengine.fetching.pace import Meter, Senders
from cacheengine.node import CacheDirConfig, NodeConfig
from cacheengine.ondemand.readthrough import ReadThrough
from cacheengine.packs import packcache, reserving
from cacheengine.packs.memberwrites import PackFile
from cacheengine.packs.packcache import Cache
from cacheengine.packs.reserving import Need
from cacheengine.peers import breaker, peerclient, peers, peerwire
from cacheengine.peers.groupview import GroupView
from cacheengine.peers.peerclient import Answer, Connections
from cacheengine.peers.peers import Peers
from cacheengine.peers.peerserver import PeerServer, Served
from cacheengine.peers.peertls import client_tls, server_tls
from cacheengine.wanted import PackWant, Want
from cacheengine.wire import Group, GroupNode, Held
from lake import stores
from lake.config import StoreConfig
from lake.errors import StoreDown
from lake.stores import Store, open_store
from tests.cacheengine.badpeer import BadPeer, Fault
from tests.cacheengine.nodes import Dataset, cache_at, make_files, object_path, publish
from tests.conftest import wait_until

SECRET = "shown among members"


@dataclass
class Published:
    store: Store
    data: Dataset
    want: Want

    def part(self) -> PackWant:
        return fetch.unique_members(wanted.read_pack(self.want, 0))[0]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    folder = tmp_path_factory.mktemp("published")
    store = open_store(StoreConfig(name="lake", idc="idc-a", url=f"file://{folder / 'lake'}"))
    files = make_files(40, 1, 90_000)
    files["video/long.bin"] = os.urandom(fetch.REQUEST + 12345)
    data = publish(store, folder, files, pack_bytes=1 << 30)
    return Published(store, data, wanted.save_want(store, folder / "views", data.version))


def fill(published: Published, cache: Cache, sources: Sources = fetch.STORE_ALONE) -> list[fetch.Bad]:
    part = published.part()
    part = part.take(~packcache.resident(cache, part))
    need = Need(part.pack, part.size, part.offset, part.length)
    placed = reserving.reserve(cache, [need], "a warm", lambda _: False, lambda: "")
    return fetch.fetch(published.store, [PackJob(part, placed[part.pack])], 4, sources=sources)


def is_right(published: Published, cache: Cache) -> bool:
    part = published.part()
    home = packcache.find_pack(cache, part.pack)
    assert home is not None
    raw = packcache.pack_path(home, part.pack).read_bytes()
    whole = object_path(published.store, part.pack).read_bytes()
    spans = zip(part.offset.tolist(), part.length.tolist(), strict=True)
    return bool(packcache.resident(cache, part).all()) and all(
        raw[start : start + size] == whole[start : start + size] for start, size in spans
    )


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """serve(cache, **changes of Served): a peer; its address."""
    running: list[PeerServer] = []

    def start(cache: Cache, **changes: object) -> str:
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        running.append(PeerServer(sock, replace(Served(cache, lambda: SECRET), **changes)))
        return f"127.0.0.1:{sock.getsockname()[1]}"

    yield start
    for server in running:
        server.close()


def group_of(**addresses: str) -> Group:
    """`me` and others by name → address of peers."""
    nodes = [GroupNode(node="me", address="", role="gpu", weight=1)]
    nodes += [
        GroupNode(node=name, address="", peer_address=address, role="gpu", weight=1)
        for name, address in addresses.items()
    ]
    return Group(generation=1, nodes=tuple(nodes))


def peers_of(secret: str = SECRET, **addresses: str) -> Peers:
    view = GroupView(groups=(group_of(**addresses),), secret=secret)
    return Peers("me", lambda: view)


def peers_that_own_all(**addresses: str) -> Peers:
    """As peers_of, but we are a client: whatever the pack is, it is theirs to read from the store."""
    group = group_of(**addresses)
    me, *others = group.nodes
    group = group.model_copy(update={"nodes": (me.model_copy(update={"role": "client"}), *others)})
    view = GroupView(groups=(group,), secret=SECRET)
    return Peers("me", lambda: view)


def near(known: Peers) -> Sources:
    return Sources(near=peers.for_warm(known, Held(version=""), lambda: False))


def store_bytes() -> int:
    return metrics.total(metrics.store_bytes)


def ask(
    address: str, part: PackWant, secret: str | None = SECRET, wait_s: int = 0, **changes: object
) -> Answer:
    members = (part.offset, part.length, part.head)
    return peerclient.ask(
        Connections(),
        address,
        secret,
        part.pack,
        part.size,
        members,
        wait_s,
        **changes,  # type: ignore[arg-type]
    )


def test_all_of_a_pack_comes_from_a_peer(
    published: Published, tmp_path: Path, serve: Callable[..., str]
) -> None:
    theirs, mine = cache_at(tmp_path / "theirs"), cache_at(tmp_path / "mine")
    assert fill(published, theirs) == []
    before = store_bytes()
    assert fill(published, mine, near(peers_of(other=serve(theirs)))) == []
    assert is_right(published, mine) and store_bytes() == before


def test_only_what_the_record_holds_is_served(
    published: Published, tmp_path: Path, serve: Callable[..., str]
) -> None:
    theirs, part = cache_at(tmp_path / "theirs"), published.part()
    assert fill(published, theirs) == []
    some = part.take(np.arange(5))
    packcache.keep_only(theirs.dirs[0], part.pack, some.keys())
    address = serve(theirs)
    assert ask(address, some).kind == "sent"
    assert ask(address, part).kind == "absent"  # the others are holes by now
    lied = replace(some, content_id=np.roll(some.content_id, 1, axis=0))
    assert ask(address, lied).kind == "absent"
    assert ask(address, replace(some, size=some.size - 1)).kind == "absent"
    for pack in ("0" * 64, "../../etc/passwd", "x" * 64):
        assert ask(address, replace(some, pack=pack)).kind in ("absent", "broken")


def test_who_shows_no_secret_or_a_wrong_one_gets_nothing(
    published: Published, tmp_path: Path, serve: Callable[..., str]
) -> None:
    theirs, part = cache_at(tmp_path / "theirs"), published.part().take(np.arange(5))
    assert fill(published, theirs) == []
    address = serve(theirs)
    assert [ask(address, part, secret).kind for secret in (None, "wrong", SECRET)] == [
        "refused",
        "refused",
        "sent",
    ]
    # while no secret is known, only a server that nobody else reaches serves
    assert ask(serve(theirs, secret=lambda: None), part, None).kind == "refused"
    assert ask(serve(theirs, secret=lambda: None, is_open=True), part, None).kind == "sent"
    # a node with a wrong one still gets its bytes, from the store
    mine = cache_at(tmp_path / "mine")
    assert fill(published, mine, near(peers_of("wrong", other=address))) == []
    assert is_right(published, mine)


@pytest.mark.parametrize(
    "message",
    [
        b"\0" * 100,
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /v1/packs/../x HTTP/1.1\r\nContent-Length: 24\r\nX-Outlap-Size: 9\r\n\r\n" + bytes(24),
        b"POST /v1/packs/"
        + b"a" * 64
        + b" HTTP/1.1\r\nContent-Length: 99999999999\r\nX-Outlap-Size: 9\r\n\r\n",
        b"POST /v1/packs/" + b"a" * 64 + b" HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/packs/"
        + b"a" * 64
        + b" HTTP/1.1\r\nContent-Length: 23\r\nX-Outlap-Size: 9\r\n\r\n"
        + bytes(23),
        b"POST /v1/packs/"
        + b"a" * 64
        + b" HTTP/1.1\r\nContent-Length: 24\r\nX-Outlap-Size: 9\r\n\r\n"
        + b"\xff" * 24,
        b"X" * 100_000,
    ],
)
def test_what_no_peer_says_ends_the_connection_and_harms_nobody(
    published: Published, tmp_path: Path, serve: Callable[..., str], message: bytes
) -> None:
    theirs, part = cache_at(tmp_path / "theirs"), published.part().take(np.arange(5))
    assert fill(published, theirs) == []
    address = serve(theirs, secret=lambda: None, is_open=True)
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        answer = b""
        with contextlib.suppress(OSError):  # it may be thrown out before it has said all
            connection.sendall(message)
            connection.shutdown(socket.SHUT_WR)
            while found := connection.recv(1000):
                answer += found
    assert b"200" not in answer
    assert ask(address, part, None).kind == "sent"


def test_who_asks_for_what_is_coming_waits_for_it(
    published: Published, tmp_path: Path, serve: Callable[..., str]
) -> None:
    theirs, part = cache_at(tmp_path / "theirs"), published.part().take(np.arange(5))
    fetching = threading.Event()
    address = serve(theirs, coming=lambda pack: 7 if fetching.is_set() else None)
    assert ask(address, part).kind == "absent"
    fetching.set()
    found = ask(address, part)
    assert (found.kind, found.progress) == ("coming", 7)
    answers: list[Answer] = []
    waits = threading.Thread(target=lambda: answers.append(ask(address, part, wait_s=20)))
    waits.start()
    assert fill(published, theirs) == []
    waits.join()
    assert answers[0].kind == "sent"


def test_a_peer_that_stalls_is_waited_for_no_longer_than_it_moves(
    published: Published, tmp_path: Path, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "STALL_S", 0.2)
    monkeypatch.setattr(peers, "POLL_S", 0)
    address = serve(cache_at(tmp_path / "theirs"), coming=lambda pack: 7)
    mine = cache_at(tmp_path / "mine")
    assert fill(published, mine, near(peers_that_own_all(other=address))) == []
    assert is_right(published, mine)


def test_a_peer_that_creeps_is_left_out_and_asked_when_nobody_else_has_the_bytes(
    published: Published, tmp_path: Path, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "LOOK_S", 0.1)
    monkeypatch.setattr(pace, "STORES", Meter(busy_s=1.0, bytes=1 << 30))
    monkeypatch.setattr(peers, "POLL_S", 0)
    progress = itertools.count()
    theirs = cache_at(tmp_path / "theirs")
    known = peers_that_own_all(other=serve(theirs, coming=lambda pack: next(progress)))
    mine, sources = cache_at(tmp_path / "mine"), near(known)
    assert fill(published, mine, sources) == []
    assert is_right(published, mine)
    assert set(known.slow) == {"other"}
    asked = next(progress)
    again = cache_at(tmp_path / "again")
    assert fill(published, again, sources) == []  # more of the same warm
    assert next(progress) == asked + 1
    # now only it has them
    assert fill(published, theirs) == []
    gone = Published(open_store(StoreConfig(name="gone", idc="idc-a", url=f"file://{tmp_path}")),
                     published.data, published.want)  # fmt: skip
    last = cache_at(tmp_path / "last")
    assert fill(gone, last, sources) != []
    both = replace(sources, last=peers.for_warm(known, Held(version=""), lambda: False, last=True))
    assert fill(gone, last, both) == []
    assert is_right(published, last)
    # and a reader
    part, through = published.part(), ReadThrough(
        cache_at(tmp_path / "reader"), gone.store, published.want.index.parent, near=known
    )  # fmt: skip
    assert len(through.read(part.pack, int(part.offset[0]), int(part.length[0]))) == part.length[0]
    through.close()


@pytest.mark.fault("C16")
@pytest.mark.parametrize("slow", ["to fetch", "to send"])
def test_a_peer_that_was_slow_for_a_moment_is_asked_by_the_next_warm(
    published: Published,
    tmp_path: Path,
    serve: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    slow: str,
) -> None:
    """It is well again and fetches its share: the next warm takes that from it, and no second copy from the store."""
    monkeypatch.setattr(pace, "LOOK_S", 0.1)
    monkeypatch.setattr(pace, "ANSWER_S", 0.3)
    monkeypatch.setattr(pace, "STORES", Meter(busy_s=1.0, bytes=1 << 30))
    monkeypatch.setattr(peers, "POLL_S", 0)
    theirs, progress, is_well = cache_at(tmp_path / "theirs"), itertools.count(), threading.Event()

    def coming(pack: str) -> int:
        if is_well.is_set() and not len(packcache.load_have(theirs, pack)):
            assert fill(published, theirs) == []
        return next(progress)

    address = serve(theirs, coming=coming)
    bad = BadPeer("slow", first_answer(published))
    addresses = [bad.address if slow == "to send" else address]
    group = group_of(other=addresses[0])
    me, other = group.nodes

    def view() -> GroupView:
        now = other.model_copy(update={"peer_address": addresses[-1]})
        nodes = (me.model_copy(update={"role": "client"}), now)
        return GroupView(
            groups=(group.model_copy(update={"nodes": nodes, "revision": len(addresses)}),), secret=SECRET
        )

    known = Peers("me", view)
    with closing(bad):
        monkeypatch.setattr(pace, "LEAST_BPS", 1 << 30)
        assert fill(published, cache_at(tmp_path / "mine"), near(known)) == []
    monkeypatch.setattr(pace, "LEAST_BPS", 1 << 20)
    assert set(known.slow) == {"other"}
    addresses.append(address)
    is_well.set()
    assert fill(published, theirs) == []
    again, before = cache_at(tmp_path / "again"), store_bytes()
    assert fill(published, again, near(known)) == []
    assert is_right(published, again) and store_bytes() == before
    # a reader does not try: it has no time for who was slow a moment ago
    through = ReadThrough(
        cache_at(tmp_path / "reader"), published.store, published.want.index.parent, near=known
    )
    part = published.part()
    assert len(through.read(part.pack, int(part.offset[0]), int(part.length[0]))) == part.length[0]
    through.close()
    assert store_bytes() > before


@pytest.mark.fault("C16")
def test_requests_that_fail_together_count_as_one_failure_of_the_peer() -> None:
    found = breaker.Breaker()
    for _ in range(16):
        found = breaker.failed(found, 100.0)
    assert breaker.state(found, 100.0 + breaker.OPEN_S) == "half-open"
    tried = breaker.admit(found, 100.0 + breaker.OPEN_S)
    assert tried is not None
    assert breaker.failed(tried, 103.0).until == 103.0 + 2 * breaker.OPEN_S


@pytest.mark.parametrize("starved", ["it is as slow as all that comes to us", "it has much under way"])
def test_a_peer_that_is_only_as_starved_as_we_are_is_waited_for(
    published: Published,
    tmp_path: Path,
    serve: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    starved: str,
) -> None:
    """The store was far faster once, before all had so much to do."""
    monkeypatch.setattr(pace, "LOOK_S", 0.1)
    monkeypatch.setattr(pace, "SENDERS", Senders())
    monkeypatch.setattr(peers, "POLL_S", 0)
    theirs, mine, steps = cache_at(tmp_path / "theirs"), cache_at(tmp_path / "mine"), itertools.count(1)
    creeps, began, came = "as slow" in starved, time.monotonic(), 0
    monkeypatch.setattr(pace, "STORES", Meter(busy_s=1.0, bytes=1 << 40 if creeps else 1 << 30))

    def coming(pack: str) -> int:
        nonlocal came
        if time.monotonic() - began > 5 * pace.LOOK_S:
            assert fill(published, theirs) == []
        came = next(steps) * 100_000 if creeps else 0
        return came

    known = peers_that_own_all(other=serve(theirs, coming=coming))
    waits = peers.for_warm(known, Held(version=""), lambda: False, 0 if creeps else 1 << 30)
    with pace.sending(pace.SENDERS, "third", lambda: came):
        assert fill(published, mine, Sources(near=waits)) == []
    assert known.slow == {}
    assert is_right(published, mine)


def test_a_peer_whose_bytes_come_too_slowly_is_left_out(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "ANSWER_S", 0.3)
    monkeypatch.setattr(pace, "LEAST_BPS", 1 << 30)
    bad, mine = BadPeer("slow", first_answer(published)), cache_at(tmp_path / "mine")
    with closing(bad):
        known = peers_of(other=bad.address)
        assert fill(published, mine, near(known)) == []
    assert set(known.slow) == {"other"}
    assert is_right(published, mine)


@pytest.mark.parametrize(
    ("store_bps", "stopped", "kind"), [(5e5, False, "sent"), (5e5, True, "slow"), (5e9, False, "slow")]
)
def test_a_warm_on_a_slow_link_waits_on_and_blames_no_peer(
    monkeypatch: pytest.MonkeyPatch, store_bps: float, stopped: bool, kind: str
) -> None:
    """Eight bytes that trickle. The store was as slow a moment ago, or far from it."""
    monkeypatch.setattr(pace, "ANSWER_S", 0.3)
    monkeypatch.setattr(pace, "SENDERS", Senders(ended={pace.STORE: (time.monotonic(), store_bps)}))
    bad = BadPeer("slow", b"trickles")
    with closing(bad):
        members = (np.array([0]), np.array([8]), np.zeros(1, np.uint64))
        answer = peerclient.ask(
            Connections(), bad.address, SECRET, "0" * 64, 8, members, is_patient=lambda: not stopped
        )
    assert answer.kind == kind
    assert bytes(answer.data) == (b"trickles" if kind == "sent" else b"")


def test_a_busy_peer_says_so(published: Published, tmp_path: Path, serve: Callable[..., str]) -> None:
    theirs, part = cache_at(tmp_path / "theirs"), published.part()
    assert fill(published, theirs) == []
    address = serve(theirs, streams=1)
    host, _, port = address.partition(":")
    # one that takes the whole pack, and then does not read
    with socket.create_connection((host, int(port))) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        body = peerwire.encode(part.offset, part.length, part.head)
        slow.sendall(
            f"POST /v1/packs/{part.pack} HTTP/1.1\r\nX-Outlap-Size: {part.size}\r\n"
            f"Authorization: Bearer {SECRET}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        few = part.take(np.arange(5))
        assert slow.recv(12) == b"HTTP/1.1 200"  # its answer has begun: the one stream is taken
        assert ask(address, few).kind == "busy"
        mine = cache_at(tmp_path / "mine")
        assert fill(published, mine, near(peers_of(other=address))) == []
        assert is_right(published, mine)


def first_answer(published: Published) -> bytes:
    """What a peer sends to who asks for all but the long one, which asks by itself."""
    part = published.part()
    first = part.take(np.arange(len(part.offset) - 1))
    spans = peerwire.spans(first.offset, first.length)
    whole = object_path(published.store, part.pack).read_bytes()
    return b"".join(whole[start:end] for start, end in spans.tolist())


@pytest.fixture(autouse=True)
def nobody_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """What senders of other tests did says nothing here."""
    monkeypatch.setattr(pace, "SENDERS", Senders())


@pytest.mark.parametrize("fault", get_args(Fault))
def test_a_hostile_peer_costs_time_and_no_more(
    published: Published, tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "ANSWER_S", 0.3)
    monkeypatch.setattr(pace, "LEAST_BPS", 1 << 30)
    monkeypatch.setattr(peers, "BUSY_S", 0.2)
    part = published.part()
    whole = object_path(published.store, part.pack).read_bytes()
    bad = BadPeer(fault, first_answer(published))
    mine = cache_at(tmp_path / "mine")
    with closing(bad):
        known = peers_of(other=bad.address)
        assert fill(published, mine, near(known)) == []
        assert is_right(published, mine)
        # a reader of the same, whose cache is empty
        through = ReadThrough(
            cache_at(tmp_path / "c"), published.store, published.want.index.parent, near=known
        )
        for row in range(4):
            start, length = int(part.offset[row]), int(part.length[row])
            assert through.read(part.pack, start, length) == whole[start : start + length]
        through.close()
    assert bad.asked or fault == "closed"


def test_a_peer_that_fails_is_left_alone_and_taken_back(
    published: Published, tmp_path: Path, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, part = cache_at(tmp_path / "theirs"), published.part()
    assert fill(published, theirs) == []
    bad = BadPeer("garbage")
    known = peers_of(other=bad.address)
    few = part.take(np.arange(3))
    fd = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    pack = PackFile(fd, theirs.dirs[0])
    take = peers.for_reader(known, [])
    for _ in range(6):
        assert take(few, [0, 1, 2], pack) == [0, 1, 2]
    assert bad.asked == 3  # then its breaker was open
    bad.close()
    address = serve(theirs)
    healed = GroupView(groups=(group_of(other=address),), secret=SECRET)
    monkeypatch.setattr(known, "view", lambda: healed)  # another group, of the same revision
    known.revision = (-1, -1)
    wait_until(lambda: take(few, [0, 1, 2], pack) == [], "the half-open breaker to let it in", 10)
    os.close(fd)


def test_another_store_is_asked_when_ours_is_away_or_wrong(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "TRIES", 1)
    other = open_store(StoreConfig(name="far", idc="idc-b", url=published.store.where), from_idc="idc-a")
    real = stores.get_range

    def away(handle: Store, key: str, offset: int, length: int, *received: Any) -> bytes | memoryview:
        if handle.name != "far":
            raise StoreDown("read", "refused")
        return real(handle, key, offset, length, *received)

    def wrong(handle: Store, key: str, offset: int, length: int, *received: Any) -> bytes | memoryview:
        found = real(handle, key, offset, length, *received)
        return found if handle.name == "far" else bytes(length)

    for name, broken in (("away", away), ("wrong", wrong)):
        monkeypatch.setattr(stores, "get_range", broken)
        mine = cache_at(tmp_path / name)
        assert fill(published, mine, Sources(others=lambda: [other])) == []
        assert is_right(published, mine)


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


def certificates(folder: Path, authority: str) -> None:
    """An authority and a certificate that it signed."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    ours = (
        "-subj",
        f"/CN={authority}",
        "-keyout",
        f"{authority}.key",
        "-out",
        f"{authority}.pem",
        "-days",
        "2",
    )
    openssl(folder, "req", "-x509", *key, *ours)
    node = ("-subj", "/CN=a node", "-keyout", f"{authority}-n.key", "-out", f"{authority}-n.csr")
    openssl(folder, "req", "-new", *key, *node)
    openssl(
        folder, "x509", "-req", "-in", f"{authority}-n.csr", "-CA", f"{authority}.pem", "-CAkey", f"{authority}.key",
        "-CAcreateserial", "-days", "2", "-out", f"{authority}-n.pem",
    )  # fmt: skip


def tls_node(folder: Path, certificate: str, authority: str) -> NodeConfig:
    return NodeConfig(
        name="n",
        cache_dirs=(CacheDirConfig(path=folder, quota=1),),
        mounts=folder,
        state_dir=folder,
        tls_cert=folder / f"{certificate}-n.pem",
        tls_key=folder / f"{certificate}-n.key",
        tls_ca=folder / f"{authority}.pem",
    )


def test_peers_speak_tls_and_each_shows_a_certificate(
    published: Published, tmp_path: Path, serve: Callable[..., str]
) -> None:
    for authority in ("ours", "others"):
        certificates(tmp_path, authority)
    theirs = cache_at(tmp_path / "theirs")
    assert fill(published, theirs) == []
    address = serve(theirs, tls=server_tls(tls_node(tmp_path, "ours", "ours")))
    part = published.part()

    def kind(node: NodeConfig | None) -> str:
        tls = None if node is None else client_tls(node)
        members = (part.offset, part.length, part.head)
        return peerclient.ask(
            Connections(tls), address, SECRET, part.pack, part.size, members, most_s=5.0
        ).kind

    assert kind(tls_node(tmp_path, "ours", "ours")) == "sent"
    assert kind(None) == "broken"
    assert kind(tls_node(tmp_path, "others", "ours")) == "broken"  # a certificate that it does not take
    assert kind(tls_node(tmp_path, "ours", "others")) == "broken"  # one that we do not take
    known = peers_of(other=address)
    known.connections.tls = client_tls(tls_node(tmp_path, "ours", "ours"))
    mine, before = cache_at(tmp_path / "mine"), store_bytes()
    assert fill(published, mine, near(known)) == []
    assert is_right(published, mine) and store_bytes() == before
