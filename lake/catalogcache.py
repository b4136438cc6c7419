"""Local copies of catalogue files: shared by all queries of a machine, bounded, safe to delete at any time.

They lie in `$OUTLAP_HOME/cache/catalog` (where there is no such home: in the query's scratch folder). A query links what it needs into
its own scratch, so that another process that makes room takes nothing from under it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lake import stores
from lake.canonical import blake3_hex
from lake.config import home
from lake.errors import Corrupt
from lake.stores import Info, Store
from lake.unreadable import Unreadable, set_aside

CACHE_BYTES = 4 << 30
PARALLEL = 8
MEND = "delete this object and ingest its drive again"


def cache_folder(scratch: Path) -> Path:
    return (home() / "cache" if home().is_dir() else scratch) / "catalog"


def local_copies(
    store: Store,
    infos: Sequence[Info],
    folder: Path,
    links: Path,
    unreadable: list[Unreadable] | None = None,
) -> dict[str, Path]:
    """Copy catalogue files to this machine, unless their copies are here.

    Args:
        store: where the files lie.
        infos: the files, as a listing gave them.
        folder: where copies are kept for later.
        links: where the copies of this query are linked.
        unreadable: takes the files that are no Parquet; None raises Corrupt for the first one.

    Returns:
        Key → path below `links`, in the order of `infos`.

    Raises:
        NotFound: a file is gone.
        StoreDown: the store does not answer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    links.mkdir(parents=True, exist_ok=True)

    def one(info: Info) -> Path | Corrupt:
        # an etag or a size that changed is another file; `where` tells stores of one name apart
        name = blake3_hex(f"{store.where} {store.name} {info.key} {info.etag} {info.size}".encode())[:32]
        local, link = folder / f"{name}.parquet", links / f"{name}.parquet"
        if not link.exists() and not _linked(local, link):
            partial = links / f"{name}.partial"
            partial.write_bytes(stores.get(store, info.key))
            try:
                pq.read_metadata(partial)
            except (pa.ArrowException, OSError) as error:
                partial.unlink()
                return Corrupt(f"{info.key} in store {store.name}", f"it is not Parquet: {error}", MEND)
            partial.rename(link)
            _keep(link, local)
        return link

    with ThreadPoolExecutor(PARALLEL) as pool:
        answers = list(pool.map(one, infos))
    make_room(folder, CACHE_BYTES)
    found: dict[str, Path] = {}
    for info, answer in zip(infos, answers, strict=True):
        if isinstance(answer, Corrupt):
            set_aside(info.key, answer, unreadable)
        else:
            found[info.key] = answer
    return found


def _linked(local: Path, link: Path) -> bool:
    try:
        os.utime(local)  # last used: what make_room goes by
        os.link(local, link)
    except FileNotFoundError:
        return False
    except OSError:  # another file system: no links between them
        try:
            shutil.copyfile(local, link)
        except FileNotFoundError:
            link.unlink(missing_ok=True)
            return False
    return True


def _keep(link: Path, local: Path) -> None:
    partial = local.with_suffix(f".{os.getpid()}-{id(link)}.partial")
    try:
        os.link(link, partial)
    except OSError:
        shutil.copyfile(link, partial)
    partial.rename(local)


def make_room(folder: Path, limit: int) -> None:
    """Remove the copies that were not used for longest until the others have `limit` bytes at most."""
    found = []
    for path in folder.glob("*.parquet"):
        with suppress(FileNotFoundError):  # another process made room too
            state = path.stat()
            found.append((state.st_mtime, state.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit:
            return
        path.unlink(missing_ok=True)
        total -= size
