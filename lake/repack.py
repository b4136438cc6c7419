"""Repack: a version that uses little of its packs gets packs of its own; its id and its tags stay.

The rule: a pack is left of which the version needs less than half (`SHARE`), each file counted with the header and the gap that it
has in a pack. Measured (docs/lake.md): near ranges come as one request, so what lies between them travels too, and a fetch costs about
1 / share of a dense one. Packs that were published in place are not touched.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lake import leases, stores
from lake.availability import let_appear
from lake.canonical import blake3_hex
from lake.errors import Corrupt
from lake.leases import Writing
from lake.manifests import put_locations
from lake.packs import ALIGN, PACK_TARGET, PackWriter, pack_key, put_pack
from lake.packuse import PackCheck
from lake.stores import Store
from lake.versions import Available, PackUse, read_available, rows

SHARE = 0.5
FETCH_BYTES = 64 << 20
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Repacked:
    """left: packs that the version no longer needs here; bytes_left: their size; bytes: of the packs that were written."""

    version: str
    packs_before: int
    packs_after: int
    left: tuple[str, ...]
    bytes_left: int
    bytes: int


def sparse_packs(available: Available, share: float = SHARE) -> tuple[PackUse, ...]:
    """The packs of which a version needs less than that share: its files, each with the header and the gap it has in a pack."""
    return tuple(
        use
        for use in available.packs
        if use.bytes + 2 * ALIGN * use.files < share * use.size and use.id not in available.assembled
    )


@dataclass
class _Part:
    """A part whose rows move: offsets and places of new packs are filled in as they are written."""

    table: pa.Table
    packs: npt.NDArray[np.int64]  # -1: stays where it is
    offsets: npt.NDArray[np.int64]


def repack(
    store: Store, version: str, scratch: Path, share: float = SHARE, progress: Progress | None = None
) -> Repacked:
    """Write the files of sparse packs into new packs, then let the version name these. Harmless to repeat or kill.

    progress(bytes done, bytes in all). Raises NotFound, Corrupt when a file's bytes are not those of its content id.
    """
    with leases.writing(store, f"the repack of {version[:12]}") as lease:
        before = read_available(store, version)
        return _repack(store, lease, before, sparse_packs(before, share), scratch, progress)


def repack_without(store: Store, version: str, packs: Collection[str], scratch: Path) -> Repacked:
    """The same for exactly these packs, however much of them is used: so that they can be deleted."""
    with leases.writing(store, f"the repack of {version[:12]}") as lease:
        before = read_available(store, version)
        sparse = tuple(use for use in before.packs if use.id in packs)
        return _repack(store, lease, before, sparse, scratch, None)


def _repack(
    store: Store,
    lease: Writing,
    before: Available,
    sparse: Sequence[PackUse],
    scratch: Path,
    progress: Progress | None,
) -> Repacked:
    version = before.version
    if not sparse:
        return Repacked(version, len(before.packs), len(before.packs), (), 0, 0)
    scratch.mkdir(parents=True, exist_ok=True)
    check = PackCheck(store)
    locations = []
    writing = _Writing(store, scratch, progress, sum(use.bytes for use in sparse))
    try:
        for moved in writing.parts(rows(store, version), pa.array([use.id for use in sparse], pa.string())):
            check.add(moved)
            locations.append(put_locations(store, moved))
    finally:
        writing.close()
    after = Available(version, before.files, before.bytes, tuple(locations), check.uses(), check.assembled())
    let_appear(store, lease, after, before)
    kept = {use.id for use in after.packs}
    left = [use for use in before.packs if use.id not in kept]
    size = sum(use.size for use in left)
    written = sum(use.size for use in after.packs if use.id in writing.ids)
    return Repacked(
        version, len(before.packs), len(after.packs), tuple(use.id for use in left), size, written
    )


class _Writing:
    """The pack that is being written, and the parts that wait for its id."""

    def __init__(self, store: Store, scratch: Path, progress: Progress | None, total: int) -> None:
        self._store, self._local = store, scratch / "repack.tar"
        self._progress, self._done, self._total = progress, 0, total
        self._writer: PackWriter | None = None
        self.ids: list[str] = []

    def parts(self, tables: Iterator[pa.Table], sparse: pa.Array) -> Iterator[pa.Table]:
        """The same rows, pack and offset as they are now, in the same order."""
        waiting: deque[_Part] = deque()
        for table in tables:
            table = table.combine_chunks()
            moving = pc.is_in(table["pack"], sparse).to_numpy()
            part = _Part(table, np.full(table.num_rows, -1, np.int64), table["offset"].to_numpy().copy())
            waiting.append(part)
            self._move(part, np.flatnonzero(moving))
            while waiting and waiting[0].packs.max() < len(self.ids):
                yield self._placed(waiting.popleft())
        self._finish()
        while waiting:
            yield self._placed(waiting.popleft())

    def _placed(self, part: _Part) -> pa.Table:
        places = pa.array(part.packs, mask=part.packs < 0)
        new = pa.array(self.ids, pa.string()).take(places)
        packs = pc.coalesce(new, part.table["pack"])
        table = part.table.set_column(part.table.schema.get_field_index("pack"), "pack", packs)
        return table.set_column(table.schema.get_field_index("offset"), "offset", pa.array(part.offsets))

    def _move(self, part: _Part, places: npt.NDArray[np.int64]) -> None:
        """Copy the files of these rows, in groups that fit into memory; a large one by itself, in pieces."""
        sizes = part.table["size"].to_numpy()[places]
        # a group ends where the sum passes a multiple of FETCH_BYTES
        cuts = np.flatnonzero(np.diff(np.cumsum(sizes) // FETCH_BYTES)) + 1
        for group in np.split(places, cuts) if len(places) else ():
            wanted = part.table.take(pa.array(group))
            if len(group) == 1 and wanted["size"][0].as_py() > FETCH_BYTES:
                part.offsets[group] = self._copy(wanted)
                part.packs[group] = len(self.ids)
                continue
            for row, data in zip(group.tolist(), self._fetched(wanted), strict=True):
                writer = self._room_for(len(data))
                part.offsets[row] = writer.add(part.table["path"][row].as_py(), data)
                part.packs[row] = len(self.ids)

    def _copy(self, wanted: pa.Table) -> int:
        row = wanted.to_pylist()[0]
        writer, end = self._room_for(row["size"]), row["offset"] + row["size"]
        key = pack_key(row["pack"])
        offset = writer.add_pieces(
            row["path"],
            row["size"],
            (
                stores.get_range(self._store, key, start, min(FETCH_BYTES, end - start))
                for start in range(row["offset"], end, FETCH_BYTES)
            ),
        )
        self._moved(row["size"])
        if writer.last_content_id != row["content_id"]:
            raise _wrong(row["path"], row["pack"])
        return offset

    def _moved(self, size: int) -> None:
        self._done += size
        if self._progress is not None:
            self._progress(self._done, self._total)

    def _fetched(self, wanted: pa.Table) -> list[bytes]:
        """Bytes of each row, checked; near ranges of a pack come by one request."""
        data: list[bytes] = [b""] * wanted.num_rows
        packs, offsets = wanted["pack"].to_pylist(), wanted["offset"].to_pylist()
        sizes, ids = wanted["size"].to_pylist(), wanted["content_id"].to_pylist()
        for pack in dict.fromkeys(packs):
            mine = [place for place, name in enumerate(packs) if name == pack and sizes[place]]
            found = (
                stores.get_ranges(
                    self._store,
                    pack_key(pack),
                    [offsets[place] for place in mine],
                    [sizes[place] for place in mine],
                )
                if mine
                else []
            )
            for place, piece in zip(mine, found, strict=True):
                data[place] = piece
        for place, piece in enumerate(data):
            if blake3_hex(piece) != ids[place]:
                raise _wrong(wanted["path"][place].as_py(), packs[place])
        self._moved(sum(sizes))
        return data

    def _room_for(self, size: int) -> PackWriter:
        if self._writer is not None and self._writer.size + size + 2 * ALIGN > PACK_TARGET:
            self._finish()
        if self._writer is None:
            self._writer = PackWriter(self._local)
        return self._writer

    def _finish(self) -> None:
        if self._writer is not None:
            pack, self._writer = self._writer.finish(), None
            put_pack(self._store, pack.id, self._local)
            self.ids.append(pack.id)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.abandon()
        self._local.unlink(missing_ok=True)


def _wrong(path: str, pack: str) -> Corrupt:
    return Corrupt(
        f"{path} in {pack_key(pack)}",
        "its bytes do not have its content id",
        "verify the version (`outlap verify`)",
    )
