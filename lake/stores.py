"""Stores: one object store in one IDC, as functions over a plain handle.

A skin over obstore that fixes three things: errors of our family, bounded retries and time limits, and read-only
stores that cannot be written by mistake. Keys are relative to the store's prefix, with `/` between parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import obstore
from obstore import exceptions as obs_errors
from obstore.store import LocalStore, ObjectStore, S3Store

from lake.config import Config, StoreConfig, read_secret
from lake.errors import Conflict, LakeError, NotFound, ReadOnly, Refused, StoreDown

STREAM_CHUNK = 4 << 20
# ranges that are no further apart are fetched as one, as obstore would
NEAR = 1 << 20
MULTIPART_FROM = 64 << 20
PART = 8 << 20
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


_DOWN = "check that it is up (`outlap status`) and that the settings are right, then run again: finished work is kept"


@contextmanager
def _explained(store: Store, key: str, verb: str) -> Iterator[None]:
    what = f"{verb} {key or 'the bucket'} in store {store.name} ({store.where})"
    try:
        yield
    except LakeError:
        raise
    except (FileNotFoundError, obs_errors.NotFoundError) as error:
        raise NotFound(f"{key} in store {store.name}", "there is no such object") from error
    except (obs_errors.PreconditionError, obs_errors.AlreadyExistsError) as error:
        raise Conflict(what, "another writer was first", "run it again") from error
    except (obs_errors.PermissionDeniedError, obs_errors.UnauthenticatedError) as error:
        if "RequestTimeTooSkewed" in str(error):
            raise StoreDown(
                what, "the clock of this machine is not that of the store", "set it, for example by NTP"
            ) from error
        raise StoreDown(
            what, "the store refuses our credentials", "check the keys that the settings name"
        ) from error
    except (obs_errors.BaseError, OSError) as error:
        raise StoreDown(what, _cause(error), _DOWN) from error


def _cause(error: BaseException) -> str:
    """One line of what obstore says: its debug text follows after a blank line."""
    text = str(error).split("\n\nDebug source")[0].strip()
    return " ".join(text.split())[:300] or type(error).__name__


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
        )
        if reference
        is not None  # without keys: the machine's own identity, or none where an endpoint is named
    }
    obs = S3Store(
        url.netloc,
        prefix=url.path.strip("/") or None,
        endpoint=endpoint,
        region=config.region,
        skip_signature=len(keys) < 2 and endpoint is not None,
        virtual_hosted_style_request=False,
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


def stream_matching(store: Store, key: str, etag: str, size: int) -> Iterator[bytes | memoryview]:
    """The object in pieces, only while it still has this etag. Raises Conflict when it has another (If-Match), NotFound.

    size: as it is known; one of STREAM_CHUNK at most comes at once, which is half the work of a stream.
    """
    with _explained(store, key, "read"):
        answer = obstore.get(store.obs, key, options={"if_match": etag})
        if size <= STREAM_CHUNK:
            yield memoryview(answer.bytes())
            return
        for part in answer.stream(min_chunk_size=STREAM_CHUNK):
            yield bytes(part)


def get_tagged(store: Store, key: str) -> tuple[bytes, str | None]:
    """The object and its etag, for compare_and_swap."""
    with _explained(store, key, "read"):
        answer = obstore.get(store.obs, key)
        return bytes(answer.bytes()), answer.meta["e_tag"]


def get_range(store: Store, key: str, offset: int, length: int) -> bytes:
    """Bytes [offset, offset+length). Raises StoreDown when the store gives fewer."""
    if length == 0:
        return b""
    with _explained(store, key, "read"):
        data = bytes(obstore.get_range(store.obs, key, start=offset, length=length))
    if len(data) != length:
        raise StoreDown(f"read {key} in store {store.name}", f"it gave {len(data)} of {length} bytes", _DOWN)
    return data


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
            raise StoreDown(f"read {key} in store {store.name}", why, _DOWN)
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
    return Info(key, meta["size"], meta["e_tag"])


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
        raise StoreDown(f"write {key} in store {store.name}", f"of {size} bytes {there} arrived", _DOWN)


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


def compare_and_swap(store: Store, key: str, data: bytes, etag: str | None) -> None:
    """Write only if the object still has `etag` (None: only if there is none). Raises Conflict.

    S3: If-Match and If-None-Match. A directory knows no If-Match: there it is compared and written, for single writers.
    """
    _writable(store, key)
    with _explained(store, key, "move"):
        if etag is None:
            obstore.put(store.obs, key, data, mode="create", use_multipart=False)
        elif isinstance(store.obs, LocalStore):
            if obstore.head(store.obs, key)["e_tag"] != etag:
                raise Conflict(
                    f"move {key} in store {store.name}", "another writer was first", "run it again"
                )
            obstore.put(store.obs, key, data, use_multipart=False)
        else:
            obstore.put(store.obs, key, data, mode={"e_tag": etag}, use_multipart=False)


def list_objects(store: Store, prefix: str) -> Iterator[Info]:
    """All objects below a prefix that ends in `/` (or ""), in the order the store gives."""
    with _explained(store, prefix, "list"):
        for batch in obstore.list(store.obs, prefix or None, chunk_size=1000):
            for meta in batch:
                modified_ns = int(meta["last_modified"].timestamp() * 1e6) * 1000
                yield Info(meta["path"], meta["size"], meta["e_tag"], modified_ns)


def list_folders(store: Store, prefix: str) -> list[str]:
    """Names of the folders directly below a prefix, sorted."""
    with _explained(store, prefix, "list"):
        answer = obstore.list_with_delimiter(store.obs, prefix.rstrip("/") or None)
    return sorted(found.rstrip("/").rsplit("/", 1)[-1] for found in answer["common_prefixes"])


def delete(store: Store, key: str) -> None:
    """Remove an object; one that is not there is fine."""
    _writable(store, key)
    try:
        with _explained(store, key, "delete"):
            obstore.delete(store.obs, key)
    except NotFound:
        return
