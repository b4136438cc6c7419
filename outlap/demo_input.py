"""What the demo feeds in: a synthetic drive, made once, or real recordings."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lake.config import Config
from lake.stores import lake_store, landing_store
from outlap.errors import NotHere
from outlap.recordings import LocalDrive, local_drive, upload
from outlap.scratch import scratch

VEHICLE, DRIVE = "demo-car", "demo-drive-1"
INPUT_VEHICLE = "demo-input"
CAMERAS = ("CAM_FRONT", "CAM_FRONT_LEFT", "CAM_FRONT_RIGHT")
SECONDS = 3.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Input:
    """What was landed. dataset: the name that it is published under."""

    dataset: str
    vehicle: str
    drives: tuple[LocalDrive, ...]

    @property
    def bytes(self) -> int:
        return sum(path.stat().st_size for drive in self.drives for path in drive.files.values())

    @property
    def query(self) -> str:
        """The 720P frames of these drives; their names are legal, so there is nothing to escape."""
        names = ", ".join(f"'{drive.name}'" for drive in self.drives)
        return f"select * from frames where output = '720p' and vehicle = '{self.vehicle}' and drive in ({names})"  # noqa: S608


def synthetic(config: Config, say: Say) -> LocalDrive:
    """Three 4K cameras and a GNSS track, made once and kept in $OUTLAP_HOME/demo."""
    from outlap.synthetic import make_drive

    folder = config.home / "demo" / VEHICLE / DRIVE
    if not folder.exists():
        say(f"making a synthetic drive: {len(CAMERAS)} cameras, 3840x2160 H.265, {SECONDS:.0f} s each")
        part = folder.with_name(f".{DRIVE}.part")
        shutil.rmtree(part, ignore_errors=True)
        make_drive(part, vehicle=VEHICLE, drive=DRIVE, cameras=CAMERAS, seconds=SECONDS)
        part.replace(folder)
    files = {path.name: path for path in sorted(folder.iterdir())}
    return LocalDrive(VEHICLE, DRIVE, files)


def land(config: Config, recordings: Sequence[Path], say: Say) -> Input:
    """Upload the drives that are not landed yet. Raises NotHere, StoreDown."""
    if recordings:
        drives = tuple(local_drive(path, INPUT_VEHICLE) for path in recordings)
        names = [drive.name for drive in drives]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise NotHere(
                f"the drive {twice[0]}", "two of the recordings have this name", "rename one of them"
            )
        found = Input("demo-input", INPUT_VEHICLE, drives)
    else:
        found = Input("demo", VEHICLE, (synthetic(config, say),))
    store, lake = landing_store(config), lake_store(config)
    landed = []
    with scratch() as folder:
        for drive in found.drives:
            if drive.left_out:
                say(f"{drive.name}: left out, being no recordings: {', '.join(drive.left_out)}")
            say(f"landing {drive.vehicle}/{drive.name}: {len(drive.files)} files to {store.where}")
            landed.append(replace(drive, name=upload(store, drive, folder, lake)))
    return replace(found, drives=tuple(landed))
