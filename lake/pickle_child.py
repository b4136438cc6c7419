"""The child process that opens a user's pickle: run by path (`python -I`), with an empty environment and the standard library only.

Reads the pickle from stdin after it has taken its own rights away, and writes JSON lines to stdout: one
`{"path", "channel", "timestamp_ns", "sample_id"}` for each file that the pickle names, then `{"end": n}`, or `{"refused": why}`.

Nothing that a pickle names is imported: `find_class` knows exact pairs and gives stand-ins for all but plain containers and times, so
that numpy's own unpickling (which trusts its input) never runs. The stand-ins have no attributes that BUILD could set.
"""

from __future__ import annotations

import codecs
import collections
import contextlib
import datetime
import io
import json
import os
import pickle
import resource
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any

MAX_DEPTH = 64
MAX_TEXT = 4096
NOBODY = 65534
CPU_SECONDS = 600
PATH_KEYS = (
    *("img_path", "data_path", "lidar_path", "velodyne_path", "image_path", "file_path", "filepath", "path"),
    *("file_name", "filename", "file", "url", "uri", "image", "data", "key"),
)
BASE_KEYS = ("storage", "storage_location", "location", "root", "base", "data_prefix")
CHANNEL_KEYS = ("channel", "sensor", "camera", "cam", "sensor_channel")
SAMPLE_KEYS = ("sample_id", "sample_token", "token", "sample_idx", "frame_id")
# keys between a sample and its channels, which are no channels themselves
PLAIN_KEYS = frozenset(
    {"data_list", "infos", "images", "cams", "sensors", "samples", "frames", "files", "metainfo"}
)
KINDS = {
    **{
        f"{kind}{size}": code
        for kind, size, code in [("b", 1, "?"), ("i", 1, "b"), ("i", 2, "h"), ("i", 4, "i")]
    },
    **{
        f"{kind}{size}": code
        for kind, size, code in [("i", 8, "q"), ("u", 1, "B"), ("u", 2, "H"), ("u", 4, "I")]
    },
    **{f"{kind}{size}": code for kind, size, code in [("u", 8, "Q"), ("f", 4, "f"), ("f", 8, "d")]},
}


class Refused(Exception):
    """Why this pickle is not taken, as one line."""


class Dtype:
    """Stand-in for numpy.dtype: kind, size and byte order; anything but plain numbers and strings is refused."""

    __slots__ = ("kind", "order")

    def __init__(self, kind: object, *_: object) -> None:
        text = kind.lstrip("<>|=") if isinstance(kind, str) else ""
        if text not in KINDS and not (text[:1] in ("S", "U") and text[1:].isdigit() and len(text) < 6):
            raise Refused(
                f"an array of numpy dtype {str(kind)[:40]!r}: only plain numbers and strings are read"
            )
        self.kind, self.order = text, "<"

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or state[2:5] != (None, None, None):
            raise Refused("a numpy dtype with fields or metadata: only plain numbers and strings are read")
        self.order = ">" if state[1] == ">" else "<"

    def values(self, raw: bytes) -> list[Any]:
        if self.kind in KINDS:
            size = struct.calcsize(KINDS[self.kind])
            if len(raw) % size:
                raise Refused("a numpy array whose bytes do not fit its type")
            return list(struct.unpack(f"{self.order}{len(raw) // size}{KINDS[self.kind]}", raw))
        width = int(self.kind[1:]) * (4 if self.kind[0] == "U" else 1)
        code = ("utf-32-le" if self.order == "<" else "utf-32-be") if self.kind[0] == "U" else "utf-8"
        if width == 0 or len(raw) % width:
            raise Refused("a numpy array whose bytes do not fit its type")
        return [raw[at : at + width].decode(code).rstrip("\0") for at in range(0, len(raw), width)]


class Array:
    """Stand-in for numpy.ndarray: its values in one list, whatever its shape."""

    __slots__ = ("items",)

    def __init__(self, *_: object) -> None:
        self.items: list[Any] = []

    def __setstate__(self, state: object) -> None:
        if not (isinstance(state, tuple) and len(state) == 5 and isinstance(state[2], Dtype)):
            raise Refused("a numpy array in a form that is not known")
        raw = state[4]
        if isinstance(raw, str):
            raw = raw.encode("latin1")
        if not isinstance(raw, bytes | bytearray):
            raise Refused("a numpy array of objects: only plain numbers and strings are read")
        self.items = state[2].values(bytes(raw))


class StandIn:
    """A callable without attributes, so that BUILD can set none."""

    __slots__ = ("_call",)
    _call: Callable[..., Any]

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_call", call)

    def __setattr__(self, name: str, value: object) -> None:
        raise Refused("it sets an attribute of a function")

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)


def _scalar(kind: Dtype, raw: bytes | str = b"") -> Any:
    if not isinstance(kind, Dtype) or not isinstance(raw, bytes | str):
        raise Refused("a numpy value in a form that is not known")
    values = kind.values(raw.encode("latin1") if isinstance(raw, str) else raw)
    return values[0] if values else None


def _from_buffer(raw: bytes, kind: Dtype, *_: object) -> Array:
    made = Array()
    made.__setstate__((1, None, kind, False, bytes(raw)))
    return made


def _encode(text: str, code: str = "latin1") -> bytes:
    if not isinstance(text, str) or code not in ("latin1", "latin-1", "iso8859-1"):
        raise Refused(f"_codecs.encode to {str(code)[:40]!r}: only latin1 is known")
    return text.encode("latin1")


def _joined(*parts: str) -> str:
    if not all(isinstance(part, str) for part in parts):
        raise Refused("a path whose parts are no strings")
    return "/".join(part.rstrip("/") or "/" for part in parts).replace("//", "/")


def _stand_ins() -> dict[tuple[str, str], Any]:
    known: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("collections", "defaultdict"): StandIn(lambda *_: {}),
        ("datetime", "datetime"): datetime.datetime,
        ("datetime", "date"): datetime.date,
        ("datetime", "timedelta"): datetime.timedelta,
        ("datetime", "timezone"): datetime.timezone,
        ("_codecs", "encode"): StandIn(_encode),
        ("numpy", "dtype"): StandIn(Dtype),
        ("numpy", "ndarray"): StandIn(Array),
    }
    for module in ("builtins", "__builtin__"):
        known |= {
            (module, kind.__name__): kind for kind in (list, dict, set, frozenset, tuple, int, float, str)
        }
    for module in ("numpy.core", "numpy._core"):
        known[f"{module}.multiarray", "_reconstruct"] = StandIn(Array)
        known[f"{module}.multiarray", "scalar"] = StandIn(_scalar)
        known[f"{module}.numeric", "_frombuffer"] = StandIn(_from_buffer)
    for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"):
        known["pathlib", name] = StandIn(_joined)
        known["pathlib._local", name] = StandIn(_joined)
    return known


ALLOWED = _stand_ins()


def why_refused(module: str, name: str) -> str:
    """One line for a global that is not on the list, with the next step where there is one."""
    text = f"it needs {module[:80]}.{name[:80]}, which is not on the list of what a file list may hold"
    root = module.partition(".")[0]
    if root in ("pandas", "pyarrow", "polars"):
        return f"{text}: write the table as Parquet (`df.to_parquet`) or its paths as text, one a line"
    if root in ("torch", "jax", "tensorflow"):
        return f"{text}: save plain lists and dictionaries instead of tensors"
    return text


class Unpickler(pickle.Unpickler):
    """Knows exact pairs of module and name."""

    def find_class(self, module: str, name: str) -> Any:
        found = ALLOWED.get((module, name))
        if found is None:
            raise Refused(why_refused(module, name))
        return found

    def persistent_load(self, pid: Any) -> Any:
        raise Refused("it refers to objects outside the file (persistent ids)")


def _first(value: dict[Any, Any], keys: tuple[str, ...], kinds: tuple[type, ...]) -> Any:
    for key in keys:
        if isinstance(value.get(key), kinds) and not isinstance(value[key], bool):
            return value[key]
    return None


def _moment(value: dict[Any, Any]) -> int | None:
    """ns: of `timestamp_ns`, or of `timestamp`, whose unit its size tells (s, ms, us or ns since 1970)."""
    if isinstance(value.get("timestamp_ns"), int):
        return int(value["timestamp_ns"])
    stamp = value.get("timestamp")
    return _nanoseconds(stamp) if isinstance(stamp, int | float | datetime.datetime) else None


def _nanoseconds(stamp: float | int | datetime.datetime) -> int | None:
    if isinstance(stamp, datetime.datetime):
        stamp = stamp.timestamp()
    if isinstance(stamp, bool) or not 1e8 <= stamp < 1e19:
        return None
    for above, factor in ((1e17, 1), (1e14, 10**3), (1e11, 10**6)):
        if stamp >= above:
            return int(stamp) * factor
    return int(stamp) * 10**9 if isinstance(stamp, int) else round(stamp * 1e6) * 1000


def _clean(text: str) -> str:
    """Without lone surrogates, which no file name and no column can hold."""
    return text.encode("utf-8", "replace").decode()


def _row(path: str, channel: Any, at: int | None, sample: Any) -> dict[str, Any]:
    if len(path) > MAX_TEXT:
        raise Refused(f"a path of {len(path)} characters")
    if _clean(path) != path:
        raise Refused(f"the path {path[:200]!r} is not UTF-8")
    return {
        "path": path,
        "channel": _clean(str(channel)[:200]) if channel is not None else None,
        "timestamp_ns": at if at is None or -(2**63) <= at < 2**63 else None,
        "sample_id": _clean(str(sample)[:200]) if sample is not None else None,
    }


def _of_dict(value: dict[Any, Any], channel: Any, sample: Any) -> dict[str, Any] | None:
    """The row of a dictionary that names a file, None for any other."""
    path = _first(value, PATH_KEYS, (str,))
    if path is None:
        return None
    if isinstance(value.get("bucket"), str) and isinstance(value.get("key"), str):
        path = f"s3://{value['bucket']}/{value['key'].lstrip('/')}"
    base = _first(value, BASE_KEYS, (str,))
    if base is not None and "://" not in path and not path.startswith("/"):
        path = f"{base.rstrip('/')}/{path}"
    return _row(path, _first(value, CHANNEL_KEYS, (str,)) or channel, _moment(value), sample)


def _of_tuple(value: Any, channel: Any, sample: Any) -> dict[str, Any] | None:
    """(path, channel, time, …): a short sequence of a path-like string and plain values."""
    plain = 2 <= len(value) <= 6 and all(isinstance(item, str | int | float | None) for item in value)
    texts = [item for item in value if isinstance(item, str)] if plain else []
    paths = [text for text in texts if "/" in text or "." in text]
    if len(paths) != 1 or len(texts) == len(value) > 2:
        return None
    others = [text for text in texts if text != paths[0]]
    times = [_nanoseconds(item) for item in value if isinstance(item, int | float)]
    at = next((time for time in times if time is not None), None)
    return _row(paths[0], others[0] if others else channel, at, sample)


def files_of(value: Any, most: int) -> Iterator[dict[str, Any]]:
    """Every file that plain containers name, in their order; see docs/publish.md for the forms.

    Raises Refused, also for more than `most` values: a small pickle can hold one list a billion times.
    """
    waiting: list[tuple[Any, Any, Any, int]] = [(value, None, None, 0)]
    visits = 0
    while waiting:
        item, channel, sample, depth = waiting.pop()
        visits += 1
        if visits + len(waiting) > most:
            raise Refused(f"it has more than {most:,} values")
        if depth > MAX_DEPTH:
            raise Refused(f"it is nested deeper than {MAX_DEPTH} levels")
        if isinstance(item, Array):
            item = item.items
        if isinstance(item, str):
            yield _row(item, channel, None, sample)
        elif isinstance(item, dict):
            own = _first(item, SAMPLE_KEYS, (str, int))
            sample = own if own is not None else sample
            row = _of_dict(item, channel, sample)
            if row is not None:
                yield row
            inner = [
                (key, held)
                for key, held in item.items()
                if isinstance(held, dict | list | tuple | set | Array)
            ]
            for key, held in reversed(inner):
                named = key if isinstance(key, str) and key not in PLAIN_KEYS else channel
                waiting.append((held, named, sample, depth + 1))
        elif isinstance(item, list | tuple | set | frozenset):
            row = _of_tuple(item, channel, sample) if isinstance(item, list | tuple) else None
            if row is not None:
                yield row
                continue
            held = sorted(item, key=str) if isinstance(item, set | frozenset) else item
            waiting.extend((one, channel, sample, depth + 1) for one in reversed(list(held)))


def limit(memory: int) -> None:
    """Take away what reading a list does not need: memory beyond `memory` bytes, files, processes, core dumps, root."""
    for kind, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 8),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))
    if os.geteuid() == 0:
        with contextlib.suppress(
            PermissionError
        ):  # a container's root that may not: the limits above hold all the same
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)


def main() -> int:
    memory, most = int(sys.argv[1]), int(sys.argv[2])
    for code in ("utf-32-le", "utf-32-be", "latin1"):
        codecs.lookup(code)  # loaded now: later no file can be opened
    out = sys.stdout
    limit(memory)
    count = 0
    try:
        data = sys.stdin.buffer.read()
        for row in files_of(Unpickler(io.BytesIO(data)).load(), most):
            out.write(json.dumps(row) + "\n")
            count += 1
        last: dict[str, Any] = {"end": count}
    except Refused as error:
        last = {"refused": str(error)}
    except MemoryError:
        last = {"refused": f"it needs more than {memory >> 20} MiB of memory"}
    except RecursionError:
        last = {"refused": "it is nested too deep"}
    except Exception as error:  # whatever a hostile file provokes is an answer, never a traceback
        last = {"refused": f"it cannot be read: {type(error).__name__}: {str(error)[:200]}"}
    out.write(json.dumps(last) + "\n")
    out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
