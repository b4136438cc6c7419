"""Recordings of this machine as drives of the landing."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from lake import landing
from lake.errors import Conflict, Corrupt, NotFound
from lake.names import PART, check_part
from lake.stores import Store
from outlap.errors import NotHere
from transforms.recordings.formats import SUFFIXES

# what may be a part of a drive; anything else in a folder is left alone, and said
KINDS = SUFFIXES | {".csv", ".gpx", ".json", ".yaml", ".zstd"}


@dataclass(frozen=True)
class LocalDrive:
    """Recordings of this machine that are one drive.

    Attributes:
        name: Of the file or folder, or as it was asked for: recordings that were corrected in place are the same drive.
        files: Name in the drive → where it lies.
        left_out: Files of the folder that are no recordings.
        older_name: What release 0.1.0 called it, with digits of its content; "" where another name was asked for.
    """

    vehicle: str
    name: str
    files: dict[str, Path]
    left_out: tuple[str, ...] = ()
    older_name: str = ""


def legal_name(text: str) -> str:
    """The nearest legal name of a vehicle, drive or channel."""
    name = re.sub(r"\.{2,}", ".", re.sub(r"[^A-Za-z0-9._+=-]+", "-", text)).lstrip("._+=-")[:100]
    return name or "unnamed"


def _content_digest(files: dict[str, Path]) -> str:
    """Eight digits that change with any byte."""
    whole = blake3()
    for name in sorted(files):
        one = blake3()
        one.update_mmap(files[name])
        whole.update(name.encode() + b"\0" + one.digest())
    return whole.hexdigest()[:8]


def local_drive(path: Path, vehicle: str, name: str | None = None) -> LocalDrive:
    """The drive of a file (one recording) or of a folder (all recordings in it).

    Args:
        path: The file or folder.
        vehicle: Whose it is; made legal.
        name: Of the drive; default: that of the file or folder, made legal.

    Returns:
        The drive; nothing is uploaded.

    Raises:
        NotHere: There is no recording.
    """
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
    if name is not None:
        return LocalDrive(legal_name(vehicle), check_part("the drive", name), files, left)
    stem = legal_name(path.stem if path.is_file() else path.resolve().name)
    return LocalDrive(legal_name(vehicle), stem, files, left, f"{stem}-{_content_digest(files)}")


def find_drive(uri: str, vehicle: str, name: str | None = None) -> LocalDrive | tuple[str, str]:
    """What a URI names: recordings of this machine, or (vehicle, drive) of the landing. Raises NotFound, NotHere."""
    path = Path(uri)
    if path.exists():
        return local_drive(path, vehicle, name)
    parts = uri.split("/")
    if len(parts) == 2 and all(PART.fullmatch(part) for part in parts):
        return parts[0], parts[1]
    raise NotFound(
        f"the recording {uri}",
        "there is no such file or folder",
        "name a path, or VEHICLE/DRIVE of the landing",
    )


def upload(
    store: Store,
    drive: LocalDrive,
    scratch: Path,
    lake: Store | None = None,
    *,
    start_ns: int | None = None,
    sent: MutableMapping[str, str] | None = None,
    told: Callable[[str, int, bool], None] = lambda name, size, is_sent: None,
) -> str:
    """Upload a drive unless the very same is there; it takes the place of an upload of that name that was not ingested.

    Args:
        store: The landing.
        drive: Channels are the names of its files.
        scratch: A folder for links to the files.
        lake: Where it is to be ingested: asked what is there under the name.
        start_ns: When the drive began, in ns since 1970 UTC.
        sent: As lake.landing.upload_drive has it.
        told: Likewise.

    Returns:
        The drive's name: what release 0.1.0 called it, where that is uploaded or ingested with this content.

    Raises:
        Conflict: Other recordings were ingested under that name.
    """
    name = drive.name
    if drive.older_name and _is_known(store, lake, drive.vehicle, drive.older_name):
        name = drive.older_name
    folder = scratch / f"upload-{name}"
    try:
        for file, path in drive.files.items():
            link = folder / file
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.absolute())
        channels = {file: legal_name(Path(file).stem) for file in drive.files}
        described = landing.describe_folder(folder, drive.vehicle, name, start_ns, channels)
        fingerprint = landing.fingerprint_of(described)
        kept = landing.raw_fingerprint(lake, drive.vehicle, name) if lake is not None else None
        if kept not in (None, fingerprint):
            raise Conflict(
                f"the drive {drive.vehicle}/{name}",
                "other recordings were ingested under this name, and raw recordings never change",
                "give these another name: `outlap ingest PATH --drive NAME`",
            )
        if _landed_fingerprint(store, drive.vehicle, name) != fingerprint:
            landing.upload_drive(store, folder, drive.vehicle, name, start_ns, channels, sent, told)
        else:
            for file, path in drive.files.items():
                told(file, path.stat().st_size, False)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return name


def _landed_fingerprint(store: Store, vehicle: str, drive: str) -> str | None:
    """Of a complete upload; None where there is none, or one that cannot be read."""
    try:
        return landing.read_drive(store, vehicle, drive).fingerprint
    except (NotFound, Corrupt):
        return None


def _is_known(store: Store, lake: Store | None, vehicle: str, name: str) -> bool:
    if lake is not None and landing.raw_fingerprint(lake, vehicle, name) is not None:
        return True
    return _landed_fingerprint(store, vehicle, name) is not None
