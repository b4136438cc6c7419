"""Profiles: what the drives of a vehicle must have, in `profiles/<vehicle>.json` of the lake; `default` is for all others.

    {"channels": {"CAM_FRONT": {"width": 3840, "height": 2160, "min_hz": 9.5}}, "positions": true, "region": [47, 5, 55, 16],
     "partial": true}

Every part may be left out. region: south, west, north, east in degrees. partial: what is whole of a recording that was cut off is
taken, and marked; else its drive is refused. Without a profile nothing more is required.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lake import stores
from lake.canonical import read_json
from lake.errors import Corrupt, NotFound, Refused
from lake.names import check_part
from lake.stores import Store

DEFAULT = "default"


class ChannelProfile(BaseModel):
    """width, height in pixels as stored; min_hz: frames a second, on average."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    width: Annotated[int, Field(gt=0)] | None = None
    height: Annotated[int, Field(gt=0)] | None = None
    min_hz: Annotated[float, Field(gt=0)] | None = None


Latitude = Annotated[float, Field(ge=-90, le=90)]
Longitude = Annotated[float, Field(ge=-180, le=180)]


class Profile(BaseModel):
    """channels: those that every drive must have."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    channels: dict[str, ChannelProfile] = Field(default_factory=dict)
    positions: bool = False
    region: tuple[Latitude, Longitude, Latitude, Longitude] | None = None
    partial: bool = False


def _key(vehicle: str) -> str:
    return f"profiles/{check_part('the vehicle', vehicle)}.json"


def has_profile(store: Store, vehicle: str) -> bool:
    """Whether a vehicle has a profile of its own."""
    return stores.exists(store, _key(vehicle))


def read_profile(store: Store, vehicle: str) -> Profile:
    """Of a vehicle, else the default, else one that requires nothing. Raises Corrupt for one that is none."""
    for name in (vehicle, DEFAULT):
        try:
            data = stores.get(store, _key(name))
        except NotFound:
            continue
        try:
            return Profile.model_validate(read_json(data, _key(name)))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise Corrupt(_key(name), f"{where}: {first['msg']}", "write the profile again") from error
    return Profile()


def write_profile(store: Store, vehicle: str, value: object) -> Profile:
    """Check and write, over an older one. Raises Refused."""
    try:
        profile = Profile.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Refused(f"the profile of {vehicle}", f"{where}: {first['msg']}", "correct it") from error
    stores.put(store, _key(vehicle), profile.model_dump_json(exclude_none=True, indent=1).encode())
    return profile
