"""The shape of taggers, and what they are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from transforms.signals import Signal
from transforms.telemetry import Positions, Track, positions_at
from transforms.times import Int64

Kind = Literal["string", "bool", "int64", "double"]
Options = Mapping[str, int | str]
Float64 = npt.NDArray[np.float64]
Luma = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Frames:
    """The cut frames of a drive, one of each per frame, all of one length; NaN where the tracks know nothing.

    jpeg: the bytes of a frame's smallest picture, by its row; looks: what was measured of it, NaN where nothing was; signals: of the
    vehicle, by name.
    """

    vehicle: str
    drive: str
    channels: Sequence[str]
    times_ns: Int64
    positions: Positions
    tracks: Sequence[Track]
    jpeg: Callable[[int], bytes]
    looks: Mapping[str, Float64] = field(default_factory=dict)
    signals: Mapping[str, Signal] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.times_ns)

    def positions_at(self, times_ns: Int64) -> Positions:
        """Where the vehicle was at other times."""
        return positions_at(self.tracks, times_ns)


@dataclass(frozen=True)
class Tagger:
    """columns: the type of each that it makes, from its options; make: values of each column, None or NaN for unknown.

    version: part of the recipe; raise it when the same frames would get other values than before. identity: what its options
    mean, where they name something outside of the recipe (a map file: its hash). All of it must depend on its arguments alone.
    """

    name: str
    version: int
    columns: Callable[[Options], Mapping[str, Kind]]
    make: Callable[[Frames, Options], Mapping[str, Sequence[Any] | npt.NDArray[Any]]]
    identity: Callable[[Options], Mapping[str, int | str]] = dict
