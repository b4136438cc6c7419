"""Stores: one object store in one IDC, as functions over a plain handle.

A skin over obstore that fixes three things: errors of our family, bounded retries and time limits, and read-only
stores that cannot be written by mistake. Keys are relative to the store's prefix, with `/` between parts.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, overload
from urllib.parse import urlsplit

import numpy as np
import obstore
from obstore.store import LocalStore, ObjectStore, S3Store

from lake.config import Config, StoreConfig, read_secret
from lake.errors import Conflict, NotFound, ReadOnly, Refused, StoreDown
from lake.store_errors import DOWN, explained
from lake.store_probe import require_conditional_writes

STREAM_CHUNK = 4 << 20
RECEIVED_STEP = 128 << 10
# ranges that are no further apart are fetched as one, as obstore would
NEAR = 1 << 20
MULTIPART_FROM = 64 << 20
PART = 8 << 20
LOCK_S = 10.0
MOST_PARTS = 9_000  # S3 takes 10,000


@dataclass(frozen=True)
class Store:
    """A handle. `where`: for people, without secrets. `kept`: a local folder for copies of what never changes (lake/keptfiles.py)."""

    name: str
    idc: str
    read_only: bool
    obs: ObjectStore
    where: str
    kept: Path | None = None


@dataclass(frozen=True)
class Info:
    """size in bytes; etag as the store gives it, None where it has none; modified_ns: by the store's clock, 0 where nobody asked."""

    key: str
    size: int
    etag: str | None
    modified_ns: int = 0


def _explained(store: Store, key: str, verb: str) -> AbstractContextManager[None]:
    return explained(store.name, store.where, key, verb)


def open_store(config: StoreConfig, from_idc: str | None = None) -> Store:
    """A handle to the store as seen from `from_idc` (another IDC takes the outer endpoint). No request is made."""
    url = urlsplit(config.url)
    if url.scheme == "file":
        Path(url.path).mkdir(parents=True, exist_ok=True)
        return Store(config.name, config.idc, config.read_only, LocalStore(url.path), config.url)
    if url.scheme != "s3" or not url.netloc:
        raise Refused(f"the store {config.name}", f"its url {config.url!r} is neither s3:// nor file:///")
    outside = from_idc is not None and from_idc != config.idc
    endpoint = (config.outer_endpoint if outside else None) or config.endpoint
    keys: dict[str, Any] = {
        name: read_secret(reference)
        for name, reference in (
            ("access_key_id", config.access_key_id),
            ("secret_access_key", config.secret_access_key),
            ("session_token", config.session_token),
        )
        if reference
        is not None  # without keys: the machine's own identity, or none where an endpoint is named
    }
    if config.encryption is not None:
        keys["aws_server_side_encryption"] = config.encryption
    if config.kms_key_id is not None:
        keys["aws_sse_kms_key_id"] = config.kms_key_id
    virtual = config.addressing == "virtual"
    obs = S3Store(
        url.netloc,
        prefix=url.path.strip("/") or None,
        endpoint=_with_bucket(endpoint, url.netloc) if virtual and endpoint is not None else endpoint,
        region=config.region,
        skip_signature="access_key_id" not in keys and endpoint is not None,
        virtual_hosted_style_request=virtual,
        client_options={
            "allow_http": endpoint is not None and endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=5),
            "timeout": timedelta(seconds=120),
        },
        retry_config={
            "max_retries": 4,
            "retry_timeout": timedelta(seconds=30),
            "backoff": {
                "init_backoff": timedelta(milliseconds=100),
                "max_backoff": timedelta(seconds=2),
                "base": 2,
            },
        },
        **keys,
    )
    return Store(config.name, config.idc, config.read_only, obs, f"{config.url} at {endpoint or 'AWS'}")


def _with_bucket(endpoint: str, bucket: str) -> str:
    """An endpoint as it is asked with the bucket in its host name."""
    scheme, _, host = endpoint.partition("://")
    return f"{scheme}://{bucket}.{host}"


def lake_store(config: Config, idc: str | None = None) -> Store:
    """The lake of an IDC (default: ours), as seen from ours."""
    return open_store(config.store_named(config.idc_named(idc).store), config.idc)


def landing_store(config: Config, idc: str | None = None) -> Store:
    """Where the vehicles of an IDC upload. Raises NotFound when it has no landing."""
    chosen = config.idc_named(idc)
    if chosen.landing is None:
        raise NotFound(
            f"the landing of IDC {chosen.name}", "the settings name none", "set `landing` in [idc.…]"
        )
    return open_store(config.store_named(chosen.landing), config.idc)


def _writable(store: Store, key: str) -> None:
    if store.read_only:
        raise ReadOnly(
            f"write {key}", f"the store {store.name} is read-only here", "name a store that may be written"
        )


def get(store: Store, key: str) -> bytes:
    """The whole object, in memory. Raises NotFound, StoreDown."""
    with _explained(store, key, "read"):
        return bytes(obstore.get(store.obs, key).bytes())


def stream_matching(
    store: Store, key: str, etag: str, size: int, chunk: int = STREAM_CHUNK
) -> Iterator[bytes | memoryview]:
    """The object in pieces, only while it still has this etag. Raises Conflict when it has another (If-Match), NotFound.

    size: as it is known; one of `chunk` at most comes at once, which is half the work of a stream. chunk: bytes of a piece, about.
    """
    with _explained(store, key, "read"):
        answer = obstore.get(store.obs, key, options={"if_match": etag})
        if size <= chunk:
            yield memoryview(answer.bytes())
            return
        for part in answer.stream(min_chunk_size=chunk):
            yield bytes(part)


def get_tagged(store: Store, key: str) -> tuple[bytes, str | None]:
    """The object and its etag, for compare_and_swap."""
    with _explained(store, key, "read"):
        answer = obstore.get(store.obs, key)
        return bytes(answer.bytes()), answer.meta["e_tag"]


def get_with_info(store: Store, key: str) -> tuple[bytes, Info]:
    """The object, and its etag and age as of this answer. Raises NotFound, StoreDown."""
    with _explained(store, key, "read"):
        answer = obstore.get(store.obs, key)
        return bytes(answer.bytes()), _info(key, answer.meta)


@overload
def get_range(store: Store, key: str, offset: int, length: int) -> bytes: ...


@overload
def get_range(
    store: Store, key: str, offset: int, length: int, received: Callable[[int], None]
) -> bytes | memoryview: ...


def get_range(
    store: Store, key: str, offset: int, length: int, received: Callable[[int], None] | None = None
) -> bytes | memoryview:
    """Read bytes [offset, offset+length).

    Args:
        store: Where the object lies.
        key: Its key.
        offset: The first byte.
        length: How many.
        received: Hears of bytes as they come, RECEIVED_STEP or so at a time; None where nobody wants to know.

    Raises:
        NotFound: There is no such object.
        StoreDown: The store is away, or gives fewer bytes.
    """
    if length == 0:
        return b""
    with _explained(store, key, "read"):
        if received is None:
            data: bytes | memoryview = bytes(obstore.get_range(store.obs, key, start=offset, length=length))
        else:
            data = _receive(store, key, offset, length, received)
    if len(data) != length:
        raise StoreDown(f"read {key} in store {store.name}", f"it gave {len(data)} of {length} bytes", DOWN)
    return data


def _receive(store: Store, key: str, offset: int, length: int, received: Callable[[int], None]) -> memoryview:
    """What came of a range, of `length` bytes at most."""
    answer = obstore.get(store.obs, key, options={"range": (offset, offset + length)})
    data, came = np.empty(length, np.uint8).data, 0
    for part in answer.stream(min_chunk_size=RECEIVED_STEP):
        piece = memoryview(part)[: length - came]
        data[came : came + len(piece)] = piece
        came += len(piece)
        received(len(piece))
    return data[:came]


def get_ranges(store: Store, key: str, offsets: Sequence[int], lengths: Sequence[int]) -> list[bytes]:
    """Several ranges at once, each of at least a byte; near ones are fetched as one. Raises StoreDown when the store gives fewer."""
    spans: list[
        list[int]
    ] = []  # first, end: merged here, since obstore panics where an object ends inside of what it merged
    inside = [0] * len(offsets)
    for place in sorted(range(len(offsets)), key=offsets.__getitem__):
        first, end = offsets[place], offsets[place] + lengths[place]
        if spans and first - spans[-1][1] <= NEAR:
            spans[-1][1] = max(spans[-1][1], end)
        else:
            spans.append([first, end])
        inside[place] = len(spans) - 1
    with _explained(store, key, "read"):
        starts, ends = [span[0] for span in spans], [span[1] for span in spans]
        pieces = [
            memoryview(p) for p in obstore.get_ranges(store.obs, key, starts=starts, ends=ends, coalesce=0)
        ]
    for (first, end), piece in zip(spans, pieces, strict=True):
        if len(piece) != end - first:
            why = f"it gave {len(piece)} of {end - first} bytes at byte {first}"
            raise StoreDown(f"read {key} in store {store.name}", why, DOWN)
    found = []
    for span, offset, length in zip(inside, offsets, lengths, strict=True):
        at = offset - spans[span][0]
        found.append(bytes(pieces[span][at : at + length]))
    return found


def stream(store: Store, key: str, chunk: int = STREAM_CHUNK) -> Iterator[bytes]:
    """The object in pieces of at least `chunk` bytes (the last may be smaller)."""
    with _explained(store, key, "read"):
        for part in obstore.get(store.obs, key).stream(min_chunk_size=chunk):
            yield bytes(part)


def head(store: Store, key: str) -> Info | None:
    """Size and etag, None when it is not there."""
    try:
        with _explained(store, key, "look for"):
            meta = obstore.head(store.obs, key)
    except NotFound:
        return None
    return _info(key, meta)


def _info(key: str, meta: Any) -> Info:
    return Info(key, meta["size"], meta["e_tag"], int(meta["last_modified"].timestamp() * 1e6) * 1000)


def exists(store: Store, key: str) -> bool:
    return head(store, key) is not None


def put(store: Store, key: str, data: bytes) -> None:
    """Write, over whatever is there. Only for objects whose key says their content."""
    _writable(store, key)
    with _explained(store, key, "write"):
        obstore.put(store.obs, key, data, use_multipart=False)


def put_if_absent(store: Store, key: str, data: bytes) -> bool:
    """Write unless it is there; True when we wrote it. Of many writers exactly one wins."""
    _writable(store, key)
    require(store)
    try:
        with _explained(store, key, "write"):
            obstore.put(store.obs, key, data, mode="create", use_multipart=False)
    except Conflict:
        return False
    return True


def put_file(store: Store, key: str, path: Path) -> None:
    """Write a file, streamed; large ones in parts, which become visible together, at the end. Raises StoreDown.

    Each part's SHA-256 is in its signature (SigV4), so the store refuses bytes that changed on the way; the size is asked for
    afterwards.
    """
    _writable(store, key)
    size = path.stat().st_size
    chunk = max(PART, -(-size // MOST_PARTS))
    with _explained(store, key, "write"):
        obstore.put(store.obs, key, path, use_multipart=size > MULTIPART_FROM, chunk_size=chunk)
    _arrived(store, key, size)


def _arrived(store: Store, key: str, size: int) -> None:
    arrived = head(store, key)
    if arrived is None or arrived.size != size:
        there = "nothing" if arrived is None else f"{arrived.size} bytes"
        raise StoreDown(f"write {key} in store {store.name}", f"of {size} bytes {there} arrived", DOWN)


def put_pieces(store: Store, key: str, pieces: Iterator[bytes], size: int) -> None:
    """Write `size` bytes that come in pieces, as put_file does, without ever holding them. Raises StoreDown."""
    _writable(store, key)
    chunk = max(PART, -(-size // MOST_PARTS))
    with _explained(store, key, "write"):
        writer = obstore.open_writer(store.obs, key, buffer_size=chunk)
        for piece in pieces:
            writer.write(piece)
        # only here it becomes visible: where a piece is wrong, what was written is left to the store's clean-up of parts
        writer.close()
    _arrived(store, key, size)


def require(store: Store) -> None:
    """Refuse a store that lacks what the lake needs of it (lake/store_probe.py). Raises Refused, StoreDown."""
    require_conditional_writes(store.name, store.where, store.obs)


def compare_and_swap(store: Store, key: str, data: bytes, etag: str | None) -> str | None:
    """Write only if the object still has `etag` (None: only if there is none); its new etag. Raises Conflict.

    S3: If-Match and If-None-Match. A directory knows no If-Match: there it is compared and written under a lock.
    """
    _writable(store, key)
    require(store)
    with _explained(store, key, "move"):
        if etag is None:
            made = obstore.put(store.obs, key, data, mode="create", use_multipart=False)
        elif isinstance(store.obs, LocalStore):
            with folder_lock(store, key):
                if obstore.head(store.obs, key)["e_tag"] != etag:
                    raise Conflict(
                        f"move {key} in store {store.name}", "another writer was first", "run it again"
                    )
                made = obstore.put(store.obs, key, data, use_multipart=False)
        else:
            made = obstore.put(store.obs, key, data, mode={"e_tag": etag}, use_multipart=False)
    return made["e_tag"]


@contextmanager
def folder_lock(store: Store, key: str) -> Iterator[Path | None]:
    """The path of an object of a directory, with the lock of the directory held; None for a store of another kind.

    A process that is stopped while it holds the lock makes others wait, and fail, and never both write. Raises Conflict.
    """
    if not isinstance(store.obs, LocalStore):
        yield None
        return
    root = Path(str(store.obs.prefix))
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        end = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    why = f"another process has held the lock of {root} for {LOCK_S:.0f} s"
                    raise Conflict(
                        f"change {key} in store {store.name}", why, "see that none is stopped"
                    ) from None
                time.sleep(0.01)
        yield root / key
    finally:
        os.close(folder)  # and with it the lock


def list_objects(store: Store, prefix: str) -> Iterator[Info]:
    """All objects below a prefix that ends in `/` (or ""), in the order the store gives."""
    with _explained(store, prefix, "list"):
        for batch in obstore.list(store.obs, prefix or None, chunk_size=1000):
            for meta in batch:
                yield _info(meta["path"], meta)


def list_folders(store: Store, prefix: str) -> list[str]:
    """Names of the folders directly below a prefix, sorted."""
    with _explained(store, prefix, "list"):
        answer = obstore.list_with_delimiter(store.obs, prefix.rstrip("/") or None)
    return sorted(found.rstrip("/").rsplit("/", 1)[-1] for found in answer["common_prefixes"])


def delete(store: Store, key: str) -> None:
    """Remove an object; one that is not there is fine."""
    _writable(store, key)
    try:
        with _explained(store, key, "delete"), folder_lock(store, key):
            obstore.delete(store.obs, key)
    except NotFound:
        return
