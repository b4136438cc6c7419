"""Signals: what a vehicle says of itself beside pictures and positions (wipers, rain, temperature, acceleration).

A signal has a name and values over time. A CSV has a header with `timestamp_ns` and a column for each signal: numbers, true and
false, or text; empty where nothing new is said. A JSON is a list of objects with the CSV's columns. In logs a topic is a signal,
`/vehicle/wiper` is `vehicle.wiper`; messages of several values give one for each, `imu.data.acceleration_x`.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pa_csv

from transforms.errors import Unreadable
from transforms.telemetry import LARGEST_BYTES, LARGEST_TEXT, Float64, read_json_file
from transforms.times import EARLIEST_NS, LATEST_NS, Int64

MOST_SIGNALS = 1000
# what comes more often is thinned: an hour of six axes is then 35 MB
SHORTEST_NS = 10_000_000
LONGEST_NAME = 200
# of six axes, as sensor_msgs/Imu and cameras give them: m/s² with gravity in it, rad/s
IMU = tuple(f"{kind}_{axis}" for kind in ("acceleration", "rotation") for axis in "xyz")


@dataclass(frozen=True)
class Signal:
    """times_ns: strictly ascending; values: one of each, float64 (no NaN) or str. At least one."""

    times_ns: Int64
    values: npt.NDArray[Any]

    @property
    def is_text(self) -> bool:
        return self.values.dtype.kind != "f"


@dataclass
class Samples:
    """Values of one signal while they are gathered: numbers, or text from the first text on."""

    times: array[int] = field(default_factory=lambda: array("q"))
    numbers: array[float] = field(default_factory=lambda: array("d"))
    texts: list[str] = field(default_factory=list)

    def add(self, at_ns: int, value: float | str) -> None:
        if isinstance(value, str) is not bool(self.texts) and self.times:
            return  # a signal is one or the other, and the first value says which
        if self.times and 0 <= at_ns - self.times[-1] < SHORTEST_NS:
            return
        self.times.append(at_ns)
        if isinstance(value, str):
            self.texts.append(value)
        else:
            self.numbers.append(value)


def made_of(times: Sequence[int] | Int64, values: Sequence[float] | Sequence[str] | Float64) -> Signal | None:
    """A signal of values in any order; of those at one time the last counts. None without one at a time that a clock can say."""
    at = np.array(times, np.int64)
    found = np.array(values)
    is_text = found.dtype.kind in "US"
    if not is_text:
        found = found.astype(np.float64)
    good = (at >= EARLIEST_NS) & (at < LATEST_NS)
    if not is_text:
        good &= np.isfinite(found)
    at, found = at[good], found[good]
    order = np.argsort(at, kind="stable")
    at, found = at[order], found[order]
    last = np.append(np.diff(at) > 0, True) if len(at) else np.zeros(0, np.bool_)
    return Signal(at[last], found[last]) if len(at) else None


def signals_of(samples: Mapping[str, Samples]) -> dict[str, Signal]:
    """What was gathered, by name."""
    made = {
        name: made_of(np.array(one.times, np.int64), one.texts or np.array(one.numbers))
        for name, one in samples.items()
    }
    return {name: signal for name, signal in made.items() if signal is not None}


def joined(parts: Iterable[Mapping[str, Signal]]) -> dict[str, Signal]:
    """Signals of several files; of one name that is text here and numbers there the first kind counts."""
    found: dict[str, list[Signal]] = {}
    for part in parts:
        for name, signal in part.items():
            known = found.setdefault(name, [])
            if not known or known[0].is_text == signal.is_text:
                known.append(signal)
    made = {
        name: made_of(
            np.concatenate([one.times_ns for one in several]), np.concatenate([one.values for one in several])
        )
        for name, several in found.items()
    }
    return {name: signal for name, signal in made.items() if signal is not None}


def _column(values: pa.ChunkedArray) -> npt.NDArray[Any]:
    """Numbers or text of a column without nulls. Times and dates are text as Arrow prints them."""
    if (
        pa.types.is_boolean(values.type)
        or pa.types.is_integer(values.type)
        or pa.types.is_floating(values.type)
    ):
        return np.asarray(values.cast(pa.float64(), safe=False).to_numpy(), np.float64)
    return np.array(values.cast(pa.string()).to_pylist(), np.str_)


def _of_table(table: pa.Table, name: str) -> dict[str, Signal]:
    names = table.column_names
    if "timestamp_ns" not in names:
        raise Unreadable(name, "the column timestamp_ns is missing")
    if len(set(names)) != len(names) or len(names) > MOST_SIGNALS:
        raise Unreadable(name, f"a column stands twice, or there are more than {MOST_SIGNALS}")
    if not pa.types.is_integer(table["timestamp_ns"].type):
        raise Unreadable(name, f"timestamp_ns is {table['timestamp_ns'].type}, not integers")
    found = {}
    for column in names:
        if column == "timestamp_ns" or not 0 < len(column) <= LONGEST_NAME:
            continue
        rows = table.select(["timestamp_ns", column]).drop_null()
        signal = made_of(rows["timestamp_ns"].to_numpy().astype(np.int64), _column(rows[column]))
        if signal is not None:
            found[column] = signal
    if not found:
        raise Unreadable(name, "it has no signal with a value at a time that a clock can say")
    return found


def read_signals(path: Path, kind: str = ".csv", name: str | None = None) -> dict[str, Signal]:
    """Read a file of signals. kind: .csv or .json; name: for evidence. Raises Unreadable."""
    name = name or path.name
    size = path.stat().st_size
    if size > (LARGEST_BYTES if kind == ".csv" else LARGEST_TEXT):
        raise Unreadable(name, f"it has {size} bytes, more than signals can have")
    try:
        if kind == ".json":
            rows = read_json_file(path, name)
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise Unreadable(name, "it is no list of objects")
            return _of_table(pa.Table.from_pylist(rows) if rows else pa.table({}), name)
        types = pa_csv.ConvertOptions(column_types={"timestamp_ns": pa.int64()})
        return _of_table(pa_csv.read_csv(path, convert_options=types), name)
    except (pa.ArrowException, UnicodeDecodeError, OverflowError) as error:
        raise Unreadable(name, f"it is no table of signals: {' '.join(str(error).split())[:300]}") from error


def find(signals: Mapping[str, Signal], names: Sequence[str]) -> Signal | None:
    """The signal of the first of these names that there is: as it stands, or as the last part of a longer name."""
    for name in names:
        if name in signals:
            return signals[name]
        longer = sorted(known for known in signals if known.lower().rpartition(".")[2] == name)
        if longer:
            return signals[longer[0]]
    return None


def values_at(signal: Signal, times_ns: Int64, longest_ns: int) -> npt.NDArray[Any]:
    """The value that was said last at each time; NaN, or "", where none was within longest_ns before."""
    at = np.searchsorted(signal.times_ns, times_ns, side="right") - 1
    known = (at >= 0) & (times_ns - signal.times_ns[np.maximum(at, 0)] <= longest_ns)
    found = signal.values[np.maximum(at, 0)]
    return np.where(known, found, "" if signal.is_text else np.nan)


def means_at(signal: Signal, times_ns: Int64, half_ns: int) -> Float64:
    """The mean of the values from half_ns before to half_ns after each time; NaN where there is none."""
    begin = np.searchsorted(signal.times_ns, times_ns - half_ns, side="left")
    end = np.searchsorted(signal.times_ns, times_ns + half_ns, side="right")
    sums = np.concatenate([[0.0], np.cumsum(signal.values)])
    count = end - begin
    return np.where(count > 0, (sums[end] - sums[begin]) / np.maximum(count, 1), np.nan)
