"""The landing: where vehicles upload drives, and `raw/`, where checked drives are kept.

A drive is complete once `landing/<vehicle>/<drive>/COMPLETE.json` is there:

    {"outlap": 1, "vehicle": "car-7", "drive": "2026-06-01-a", "start_ns": 1780300800000000000 | null,
     "files": [{"path": "CAM_FRONT.mp4", "size": 123, "sha256": "…", "channel": "CAM_FRONT" | null, "start_ns": null}]}

Everything in it comes from a car and is checked before it is used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lake import stores
from lake.canonical import blake3_hex, canonical_json, read_json
from lake.errors import Corrupt, NotFound, Refused
from lake.names import check_part, check_path
from lake.stores import Store

COMPLETE = "COMPLETE.json"
CHUNK = 4 << 20
Size = Annotated[int, Field(ge=0, le=2**50)]
Nanoseconds = Annotated[int, Field(ge=0, lt=2**62)]


@dataclass(frozen=True)
class LandedFile:
    """size in bytes; sha256 in hex as the uploader says; channel and start_ns where it knows them."""

    path: str
    size: int
    sha256: str
    channel: str | None
    start_ns: int | None


@dataclass(frozen=True)
class Drive:
    """A complete upload. fingerprint: BLAKE3 of its COMPLETE.json in canonical form."""

    vehicle: str
    drive: str
    start_ns: int | None
    files: tuple[LandedFile, ...]
    fingerprint: str


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    path: str
    size: Size
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    channel: str | None = None
    start_ns: Nanoseconds | None = None


class _Complete(BaseModel):
    model_config = ConfigDict(extra="forbid")
    outlap: Literal[1]
    vehicle: str
    drive: str
    start_ns: Nanoseconds | None = None
    files: list[_File] = Field(max_length=100_000)


def _folder(vehicle: str, drive: str) -> str:
    return f"landing/{check_part('the vehicle', vehicle)}/{check_part('the drive', drive)}"


def find_drives(store: Store, vehicle: str | None = None) -> list[tuple[str, str]]:
    """(vehicle, drive) of every complete upload, sorted."""
    return [(one.vehicle, one.drive) for one in uploads(store, vehicle) if one.ended_ns is not None]


def incomplete(store: Store, vehicle: str | None = None) -> list[tuple[str, str]]:
    """(vehicle, drive) of uploads without COMPLETE.json: still running, or abandoned."""
    return [(one.vehicle, one.drive) for one in uploads(store, vehicle) if one.ended_ns is None]


@dataclass(frozen=True)
class Upload:
    """What the landing has of a drive. ended_ns: when its COMPLETE.json came, by the store's clock; None before that."""

    vehicle: str
    drive: str
    ended_ns: int | None


def uploads(store: Store, vehicle: str | None = None) -> list[Upload]:
    """Every upload, by vehicle and drive: one listing, a request for a thousand files."""
    prefix = f"landing/{check_part('the vehicle', vehicle)}/" if vehicle else "landing/"
    found: dict[tuple[str, str], int | None] = {}
    for info in stores.list_objects(store, prefix):
        parts = info.key.split("/")
        if len(parts) >= 4:
            pair = (parts[1], parts[2])
            is_end = len(parts) == 4 and parts[3] == COMPLETE
            found[pair] = info.modified_ns if is_end else found.get(pair)
    return [Upload(*pair, ended_ns) for pair, ended_ns in sorted(found.items())]


def _parse(data: bytes, what: str) -> Drive:
    value = read_json(data, what)
    try:
        found = _Complete.model_validate(value)
        files = tuple(LandedFile(f.path, f.size, f.sha256, f.channel, f.start_ns) for f in found.files)
        for file in files:
            check_path(file.path)
            if file.channel is not None:
                check_part("the channel", file.channel)
        if len({file.path for file in files}) != len(files):
            raise Refused("its files", "a path stands twice")
        return Drive(found.vehicle, found.drive, found.start_ns, files, blake3_hex(canonical_json(value)))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Corrupt(what, f"{where}: {first['msg']}", "upload the drive again") from error
    except Refused as error:
        raise Corrupt(what, str(error), "upload the drive again") from error


def read_drive(store: Store, vehicle: str, drive: str) -> Drive:
    """Raises NotFound while COMPLETE.json is absent, Corrupt when it is not what it should be."""
    key = f"{_folder(vehicle, drive)}/{COMPLETE}"
    try:
        data = stores.get(store, key)
    except NotFound as error:
        raise NotFound(
            f"the drive {vehicle}/{drive}",
            f"it has no {COMPLETE} in store {store.name}: the upload has not ended",
            "wait for the uploader, or have it upload again",
        ) from error
    found = _parse(data, key)
    if (found.vehicle, found.drive) != (vehicle, drive):
        raise Corrupt(key, f"it says that it is {found.vehicle}/{found.drive}", "upload the drive again")
    return found


def malformed_fingerprint(store: Store, vehicle: str, drive: str) -> str:
    """Fingerprint of an upload whose COMPLETE.json cannot be read: of its bytes as they are. Raises NotFound."""
    return blake3_hex(stores.get(store, f"{_folder(vehicle, drive)}/{COMPLETE}"))


def landed_key(vehicle: str, drive: str, path: str) -> str:
    """Where a file of an upload lies."""
    return f"{_folder(vehicle, drive)}/{check_path(path)}"


def fetch_file(store: Store, vehicle: str, drive: str, file: LandedFile, to: Path) -> None:
    """Download one file and check it. Raises NotFound; Corrupt when size or SHA-256 differ from COMPLETE.json."""
    to.parent.mkdir(parents=True, exist_ok=True)
    with to.open("wb") as out:
        for piece in read_file(store, vehicle, drive, file):
            out.write(piece)


def read_file(store: Store, vehicle: str, drive: str, file: LandedFile) -> Iterator[bytes]:
    """One file in pieces. At its end raises Corrupt when size or SHA-256 differ from COMPLETE.json. Raises NotFound."""
    key = landed_key(vehicle, drive, file.path)
    digest, size = hashlib.sha256(), 0
    # obstore cannot stream an empty object
    for piece in stores.stream(store, key) if file.size else iter([stores.get(store, key)]):
        digest.update(piece)
        size += len(piece)
        yield piece
        if size > file.size:
            break
    if size != file.size:
        raise Corrupt(
            file.path, f"{size} bytes or more were uploaded, {COMPLETE} says {file.size}", "upload it again"
        )
    if digest.hexdigest() != file.sha256:
        raise Corrupt(
            file.path,
            f"its SHA-256 is {digest.hexdigest()}, {COMPLETE} says {file.sha256}",
            "upload it again",
        )


def upload_drive(
    store: Store,
    folder: Path,
    vehicle: str,
    drive: str,
    start_ns: int | None = None,
    channels: Mapping[str, str] | None = None,
    sent: MutableMapping[str, str] | None = None,
    told: Callable[[str, int, bool], None] = lambda name, size, is_sent: None,
) -> Drive:
    """Upload every file of a folder, COMPLETE.json last.

    An older upload of that name is no longer complete from the first byte on, and nothing of it is left at the end.

    Args:
        store: The landing.
        folder: Its files are the drive's.
        vehicle: Name of the vehicle.
        drive: Name of the drive.
        start_ns: When the drive began, in ns since 1970 UTC, where the uploader knows it.
        channels: Path → channel; default: the file's stem.
        sent: Path → what an earlier try sent of it: its SHA-256 and the etag that it got. A file of which both are still true is
            not sent again. Changed as files are sent.
        told: Called for each file with its path, its bytes, and whether it was sent now.

    Raises:
        Refused: names that are not legal.
        StoreDown: the store does not answer.
    """
    prefix = _folder(vehicle, drive)
    data = describe_folder(folder, vehicle, drive, start_ns, channels)
    described = _parse(data, COMPLETE)
    stores.delete(store, f"{prefix}/{COMPLETE}")
    for file in described.files:
        is_sent = _send(store, f"{prefix}/{file.path}", folder / file.path, file, sent)
        told(file.path, file.size, is_sent)
    named = {f"{prefix}/{file.path}" for file in described.files}
    for info in list(stores.list_objects(store, f"{prefix}/")):
        if info.key not in named:
            stores.delete(store, info.key)
    stores.put(store, f"{prefix}/{COMPLETE}", data)
    return described


def describe_folder(
    folder: Path,
    vehicle: str,
    drive: str,
    start_ns: int | None = None,
    channels: Mapping[str, str] | None = None,
) -> bytes:
    """The COMPLETE.json of a folder, in canonical form: the same files give the same bytes. Raises Refused for illegal names."""
    files = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = check_path(path.relative_to(folder).as_posix())
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        channel = (channels or {}).get(name, path.stem)
        files.append({"path": name, "size": path.stat().st_size, "sha256": digest, "channel": channel})
        check_part("the channel", channel)
    value = {"outlap": 1, "vehicle": vehicle, "drive": drive, "start_ns": start_ns, "files": files}
    return canonical_json(value)


def fingerprint_of(described: bytes) -> str:
    """The fingerprint of a drive from its COMPLETE.json. Raises Corrupt."""
    return _parse(described, COMPLETE).fingerprint


def _send(
    store: Store, key: str, path: Path, file: LandedFile, sent: MutableMapping[str, str] | None
) -> bool:
    """Upload one file unless the object is the one that an earlier try sent; whether it was sent."""
    there = stores.head(store, key) if sent is not None and file.path in sent else None
    if sent is not None and there is not None and sent[file.path] == f"{file.sha256} {there.etag}":
        return False
    stores.put_file(store, key, path)
    if sent is not None:
        there = stores.head(store, key)
        sent[file.path] = f"{file.sha256} {there.etag if there is not None else None}"
    return True


def raw_folder(vehicle: str, date: str, drive: str) -> str:
    """`raw/<vehicle>/<date>/<drive>`."""
    return f"raw/{check_part('the vehicle', vehicle)}/{check_part('the date', date)}/{check_part('the drive', drive)}"


def keep_raw(
    lake: Store, drive: Drive, date: str, files: Mapping[str, Path], landing: Store | None = None
) -> None:
    """Keep the checked files (path → local copy, where there is one) of a drive for ever, its COMPLETE.json last.

    What has no local copy is streamed from the landing, and checked once more on the way.

    Once that is there nothing is written. Before it, everything is: what lies there may be of an older upload, cut short.
    """
    prefix = raw_folder(drive.vehicle, date, drive.drive)
    if stores.exists(lake, f"{prefix}/{COMPLETE}"):
        return
    for file in drive.files:
        key = f"{prefix}/{file.path}"
        if landing is None or file.path in files:
            stores.put_file(lake, key, files[file.path])
        else:
            pieces = read_file(landing, drive.vehicle, drive.drive, file)
            stores.put_pieces(lake, key, pieces, file.size)
    value = {
        "outlap": 1,
        "vehicle": drive.vehicle,
        "drive": drive.drive,
        "start_ns": drive.start_ns,
        "files": [vars(file) for file in drive.files],
        "fingerprint": drive.fingerprint,
    }
    stores.put_if_absent(lake, f"{prefix}/{COMPLETE}", canonical_json(value))


def raw_fingerprint(lake: Store, vehicle: str, drive: str) -> str | None:
    """Fingerprint of the drive that is kept under this name, None when there is none."""
    kept = find_raw(lake, vehicle, drive)
    return kept[1] if kept is not None else None


def find_raw(lake: Store, vehicle: str, drive: str) -> tuple[str, str] | None:
    """(date, fingerprint) of the drive that is kept under this name, None when there is none."""
    check_part("the drive", drive)
    for date in stores.list_folders(lake, f"raw/{check_part('the vehicle', vehicle)}/"):
        key = f"raw/{vehicle}/{date}/{drive}/{COMPLETE}"
        try:
            return date, str(read_json(stores.get(lake, key), key).get("fingerprint"))
        except NotFound:
            continue
    return None
