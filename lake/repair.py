"""Repair: a store gets back what it lost of a version, or what was damaged, from any other store that has the bytes.

Everything of a version has the hash of its content as its name, so what another store gives is checked by itself, and what lies here
under the name with other bytes is written over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from blake3 import blake3

from lake import leases, manifests, stores, versions
from lake.errors import Corrupt, LakeError, NotFound
from lake.packs import pack_key
from lake.stores import Store
from lake.versions import CheckAssembly, available_key


@dataclass(frozen=True)
class Repaired:
    """files, bytes: of the version; problems: what is wrong still; healed: one line for each object, with the IDC that gave it."""

    files: int
    bytes: int
    problems: tuple[str, ...]
    healed: tuple[str, ...]


@dataclass
class _Repair:
    """healed: objects that were written; failed: why no store could give an object."""

    store: Store
    sources: Sequence[Store]
    healed: list[str]
    failed: list[str]

    def bring(self, key: str, bring: Callable[[Store], None]) -> bool:
        """Bring an object from the first store that has it right; whether one had."""
        causes = []
        for source in self.sources:
            try:
                bring(source)
            except LakeError as error:
                causes.append(f"{source.idc}: {error.why or error.what}")
                continue
            self.healed.append(f"{key} from {source.idc}")
            return True
        self.failed.append(f"{key}: no store gave it right: {'; '.join(causes) or 'there is no other store'}")
        return False

    def check(self, key: str, read: Callable[[], object], bring: Callable[[Store], None]) -> None:
        """Bring an object that is not there, or cannot be read."""
        try:
            read()
        except (NotFound, Corrupt):
            self.bring(key, bring)


def repair(
    store: Store,
    version: str,
    sources: Sequence[Store],
    scratch: Path,
    check_assembly: CheckAssembly | None = None,
) -> Repaired:
    """Read every byte of a version in a store, and bring what is missing or damaged from others.

    Args:
        store: the store to heal; it says that it has the version.
        version: id of the version.
        sources: stores to take from, asked in this order; why one did not help is told where none did.
        scratch: a folder with room for a pack and the rows of the version.
        check_assembly: as lake.versions.verify has it. Objects that were published in place are told, and never written.

    Returns:
        What was healed, and what is wrong still.

    Raises:
        NotFound: the store does not say that it has the version: sync it there.
        ReadOnly: the store may not be written here.
        StoreDown: the store itself does not answer.
    """
    with leases.writing(store, f"the repair of {version[:12]}"):
        work = _Repair(store, sources, [], [])
        _heal_documents(work, version)
        if work.failed:  # without its rows nothing more of the version can be looked at
            return Repaired(0, 0, tuple(work.failed), tuple(work.healed))
        found = versions.read_available(store, version)
        problems = versions.pack_problems(store, found, scratch, check_assembly)
        brought = [
            use.id
            for use in found.packs
            if use.id in problems
            and use.id not in found.assembled
            and work.bring(pack_key(use.id), partial(_copy_pack, store, use.id, scratch))
        ]
        if brought:
            for pack in brought:
                del problems[pack]
            problems |= versions.pack_problems(store, found, scratch, check_assembly, brought)
    lines = [line for mine in problems.values() for line in mine]
    return Repaired(found.files, found.bytes, (*lines, *work.failed), tuple(work.healed))


def _heal_documents(work: _Repair, version: str) -> None:
    """Root, what says that all is there, parts and locations."""
    store = work.store

    def copy_available(source: Store) -> None:
        versions.write_available(store, versions.read_whole(source, version)[1])

    work.check(
        manifests.root_key(version),
        lambda: manifests.read_root(store, version),
        lambda source: manifests.copy_root(source, store, version),
    )
    if work.failed:
        return
    try:
        versions.read_whole(store, version)
    except Corrupt:
        work.bring(available_key(version), copy_available)
    if work.failed:
        return
    root, found = versions.read_whole(store, version)
    for part in root.parts:
        work.check(
            manifests.part_key(part.id),
            partial(manifests.read_part, store, part.id),
            partial(manifests.copy_part, target=store, part_id=part.id),
        )
    for item in found.locations:
        work.check(
            manifests.location_key(item),
            partial(manifests.read_locations, store, item),
            partial(manifests.copy_locations, target=store, location_id=item),
        )


def _copy_pack(store: Store, pack: str, scratch: Path, source: Store) -> None:
    """Raises NotFound, Corrupt, StoreDown."""
    key, local, digest = pack_key(pack), scratch / f"repair-{pack}.tar", blake3()
    try:
        with local.open("wb") as out:
            for piece in stores.stream(source, key):
                digest.update(piece)
                out.write(piece)
        if digest.hexdigest() != pack:
            raise Corrupt(
                f"{key} in store {source.name}", "its bytes do not have the hash of its name there either"
            )
        stores.put_file(store, key, local)
    finally:
        local.unlink(missing_ok=True)
