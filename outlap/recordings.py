"""Recordings of this machine as drives of the landing."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from lake import landing
from lake.errors import NotFound
from lake.names import PART
from lake.stores import Store
from outlap.errors import NotHere
from transforms.recordings.formats import SUFFIXES

# what may be a part of a drive; anything else in a folder is left alone, and said
KINDS = SUFFIXES | {".csv", ".gpx", ".json", ".yaml", ".zstd"}


@dataclass(frozen=True)
class LocalDrive:
    """files: name in the drive → where it lies. left_out: files of the folder that are no recordings."""

    vehicle: str
    name: str
    files: dict[str, Path]
    left_out: tuple[str, ...] = ()


def legal_name(text: str) -> str:
    """The nearest legal name of a vehicle, drive or channel."""
    name = re.sub(r"\.{2,}", ".", re.sub(r"[^A-Za-z0-9._+=-]+", "-", text)).lstrip("._+=-")[:100]
    return name or "unnamed"


def _content_digest(files: dict[str, Path]) -> str:
    """Eight digits that change with any byte, so that other recordings are another drive."""
    whole = blake3()
    for name in sorted(files):
        one = blake3()
        one.update_mmap(files[name])
        whole.update(name.encode() + b"\0" + one.digest())
    return whole.hexdigest()[:8]


def local_drive(path: Path, vehicle: str) -> LocalDrive:
    """A file is a drive of one recording, a folder a drive of all in it. Raises NotHere when there is none."""
    if path.is_file():
        files = {legal_name(path.name): path}
        left: tuple[str, ...] = ()
    else:
        found = sorted(entry for entry in path.rglob("*") if entry.is_file())
        chosen = [entry for entry in found if entry.suffix.lower() in KINDS]
        files = {
            "/".join(legal_name(part) for part in entry.relative_to(path).parts): entry for entry in chosen
        }
        left = tuple(entry.relative_to(path).as_posix() for entry in found if entry not in set(chosen))
        if len(files) < len(chosen):
            raise NotHere(
                f"the folder {path}", "two of its files would get the same name", "rename one of them"
            )
    if not files:
        raise NotHere(
            f"the folder {path}",
            f"it has no recordings ({', '.join(sorted(KINDS))})",
            "name a folder that has some",
        )
    stem = path.stem if path.is_file() else path.resolve().name
    return LocalDrive(legal_name(vehicle), f"{legal_name(stem)}-{_content_digest(files)}", files, left)


def find_drives(uris: Sequence[str], vehicle: str) -> list[tuple[str, LocalDrive | None]]:
    """(name, drive) of each URI; None for VEHICLE/DRIVE, which is in the landing already. Raises NotFound."""
    found: list[tuple[str, LocalDrive | None]] = []
    for uri in uris:
        path = Path(uri)
        if path.exists():
            drive = local_drive(path, vehicle)
            found.append((f"{drive.vehicle}/{drive.name}", drive))
        elif len(parts := uri.split("/")) == 2 and all(PART.fullmatch(part) for part in parts):
            found.append((uri, None))
        else:
            raise NotFound(
                f"the recording {uri}",
                "there is no such file or folder",
                "name a path, or VEHICLE/DRIVE of the landing",
            )
    return found


def is_landed(store: Store, vehicle: str, drive: str, names_and_sizes: dict[str, int]) -> bool:
    """Whether a complete upload of that name with files of these sizes is there."""
    try:
        there = landing.read_drive(store, vehicle, drive)
    except NotFound:
        return False
    return {file.path: file.size for file in there.files} == names_and_sizes


def upload(
    store: Store,
    drive: LocalDrive,
    scratch: Path,
    *,
    start_ns: int | None = None,
    sent: MutableMapping[str, str] | None = None,
    told: Callable[[str, int, bool], None] = lambda name, size, is_sent: None,
) -> None:
    """Upload a drive unless it is there. Channels are the names of the files.

    Args:
        store: The landing.
        drive: What to upload.
        scratch: A folder for links.
        start_ns: When the drive began, in ns since 1970 UTC.
        sent: As lake.landing.upload_drive has it; with it every file is compared with what was sent.
        told: Likewise.
    """
    sizes = {name: path.stat().st_size for name, path in drive.files.items()}
    if sent is None and is_landed(store, drive.vehicle, drive.name, sizes):
        return
    folder = scratch / f"upload-{drive.name}"
    try:
        for name, path in drive.files.items():
            link = folder / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.absolute())
        channels = {name: legal_name(Path(name).stem) for name in drive.files}
        landing.upload_drive(
            store, folder, drive.vehicle, drive.name, start_ns, channels=channels, sent=sent, told=told
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
