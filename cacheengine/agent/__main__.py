"""`python -m cacheengine.agent`: one node. Settings: [node] of the settings files, OUTLAP_NODE_* (see cacheengine.node)."""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
import signal
import socket
import threading
from functools import cache as once
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import structlog
import uvicorn

from cacheengine import descriptors
from cacheengine.agent import (
    heartbeat,
    known_mounts,
    membership,
    mounts,
    reconcile,
    residency,
    room,
    scrub,
    upkeep,
)
from cacheengine.agent.api import make_app
from cacheengine.agent.state import Node, load_state
from cacheengine.client import Control
from cacheengine.errors import Busy
from cacheengine.logs import log_as_json
from cacheengine.node import (
    NodeConfig,
    client_tokens,
    load_node,
    node_store,
    node_token,
    other_stores,
    store_opener,
    write_node_file,
)
from cacheengine.packs import directory_identity, disks
from cacheengine.packs.have import write_durably
from cacheengine.packs.packcache import open_cache
from cacheengine.peers.peerserver import PeerServer, Served
from cacheengine.peers.peertls import client_tls, server_tls
from lake.config import Config, load_config
from lake.errors import Explained, Refused

log = structlog.get_logger()


def _listen(listen: str, has_tokens: bool) -> socket.socket:
    """A bound socket. Raises Refused for a bad address, one in use, or one that others reach while no token is set."""
    host, _, port = listen.rpartition(":")
    fix = "correct the node's `listen` and `peer_listen` (HOST:PORT)"
    try:
        address = ipaddress.ip_address(host.strip("[]"))
        number = int(port)
    except ValueError as error:
        raise Refused(f"the address {listen!r}", "it is no IP address and port", fix) from error
    if not has_tokens and not address.is_loopback:
        raise Refused(
            f"the address {listen}",
            "others could reach it, and the node has no token",
            "set `token` in [node]",
        )
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((str(address), number))
    except OSError as error:
        sock.close()
        raise Refused(f"the address {listen}", error.strerror or str(error), fix) from error
    sock.set_inheritable(False)
    return sock


def _only_one(folder: Path, what: str, directory: int | None = None) -> int:
    """A lock that lives as long as this process. Raises Busy: two agents of one folder would undo each other's work.

    Args:
        folder: Where the lock lies.
        what: What the folder is, for the error.
        directory: A descriptor of the folder; None: it is found by its path.
    """
    name = ".agent.lock" if directory is not None else folder / ".agent.lock"
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644, dir_fd=directory)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise Busy(
            f"{what} {folder}", "another agent runs on it", "stop that one, or name another folder"
        ) from error
    return fd


def lock_cache(settings: NodeConfig) -> list[int]:
    """Take the cache directories into use; a lock for each that can be written. Raises Busy."""
    held = []
    for config in settings.cache_dirs:
        path = config.path.absolute()
        try:
            directory_identity.take_into_use(path, settings.state_dir)
            directory = directory_identity.open_directory(path)
            try:
                held.append(_only_one(path, "the cache directory", directory))
            finally:
                os.close(directory)
        except OSError as error:  # its disk says more when it is probed
            disks.note(path, error)
    return held


def start(config: Config, settings: NodeConfig) -> tuple[Node, Control | None]:
    """The node as its files say it was. Raises Refused."""
    try:
        for folder in (settings.state_dir, settings.views, settings.mounts, mounts_folder(settings)):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(
            f"the node's folders: {error.filename}", error.strerror or str(error), "correct [node]"
        ) from error
    write_node_file(settings)
    control = Control(settings.control, node_token(settings)) if settings.control else None
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    store = once(lambda: node_store(config, settings))
    node = Node(settings, open_cache(settings.cache_dirs, settings.state_dir), store, boot_id)
    node.open_named = store_opener(config, settings)
    node.others = other_stores(config, settings)
    if control is not None:
        node.file_list = control.file_list
        node.hear_group = partial(membership.hear, node, control)
    load_state(node)
    known_mounts.recover(node)
    room.tidy(node)
    return node, control


def mounts_folder(settings: NodeConfig) -> Path:
    return settings.state_dir / "images"


def _reached_by(settings: NodeConfig, host: str, port: int) -> str:
    """HOST:PORT for peers; of a server on all addresses the host that the agent is advertised by. Raises Refused."""
    if ipaddress.ip_address(host).is_unspecified:
        advertised = urlsplit(settings.advertise or "").hostname
        if advertised is None:
            raise Refused(
                f"the address of peers {host}:{port}",
                "nobody can ask for it",
                "set `advertise` or `peer_advertise` in [node]",
            )
        host = advertised
    return f"{f'[{host}]' if ':' in host else host}:{port}"


def serve_peers(node: Node, has_tokens: bool) -> PeerServer | None:
    """Begin to serve packs to peers, and say where; a client serves none. Raises Refused."""
    settings = node.config
    node.peers.connections.tls = client_tls(settings)
    if settings.role == "client":
        return None
    listen = settings.peer_listen or f"{settings.listen.rpartition(':')[0]}:0"
    sock = _listen(listen, has_tokens or settings.peer_secret is not None)
    host, port = sock.getsockname()[:2]
    node.peer_address = settings.peer_advertise or _reached_by(settings, host, port)
    only_here = ipaddress.ip_address(host).is_loopback
    served = Served(
        node.cache,
        lambda: node.secret,
        partial(residency.coming, node),
        settings.peer_streams,
        is_open=only_here,
        tls=server_tls(settings),
    )
    return PeerServer(sock, served)


def run() -> None:
    """Until SIGTERM or SIGINT. Views and fetchfs stay."""
    descriptors.raise_limit()
    config = load_config()
    settings = load_node(config)
    tokens = client_tokens(settings)
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    locks = [_only_one(settings.state_dir, "the node's state"), *lock_cache(settings)]
    node, control = start(config, settings)
    sock = _listen(settings.listen, bool(tokens))
    host, port = sock.getsockname()[:2]
    node.address = settings.advertise or f"http://{f'[{host}]' if ':' in host else host}:{port}"
    server = serve_peers(node, bool(tokens))
    write_durably(
        settings.state_dir / "agent.json", json.dumps({"address": node.address, "pid": os.getpid()}).encode()
    )
    threads = [threading.Thread(target=reconcile.run, args=(node,), name="reconcile")]
    threads.append(threading.Thread(target=reconcile.watch_room, args=(node,), name="room"))
    threads.append(threading.Thread(target=mounts.run, args=(node,), name="mounts"))
    threads.append(threading.Thread(target=scrub.run, args=(node,), name="scrub"))
    threads.append(threading.Thread(target=upkeep.run, args=(node,), name="disks"))
    if control is not None:
        threads.append(threading.Thread(target=heartbeat.beat, args=(node, control), name="heartbeat"))
        # a daemon: its long poll may last longer than our end
        threads.append(
            threading.Thread(target=heartbeat.follow, args=(node, control), name="desired", daemon=True)
        )
        threads.append(
            threading.Thread(target=membership.follow, args=(node, control), name="group", daemon=True)
        )
    for thread in threads:
        thread.start()
    log.info(
        "agent_started",
        node=settings.name,
        idc=settings.idc,
        address=node.address,
        peers=node.peer_address,
        control=settings.control,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn ends on these and then raises them again: by then they should end nothing more
        signal.signal(number, lambda *_: None)
    try:
        config_of = uvicorn.Config(make_app(node, tokens), log_config=None, access_log=False)
        uvicorn.Server(config_of).run(sockets=[sock])
    finally:
        if server is not None:
            server.close()
        node.ending.set()
        node.stop_warm.set()
        node.wake.set()
        for thread in threads:
            if not thread.daemon:
                thread.join()
        for lock in locks:
            os.close(lock)
        log.info("agent_ended", node=settings.name)


def main() -> None:
    log_as_json()
    try:
        run()
    except Explained as error:
        log.error("agent_failed", error=str(error), kind=type(error).__name__)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
