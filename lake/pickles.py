"""File lists that users keep as pickles, read without running them.

A pickle is a program. It is scanned first, without being run: `pickletools` walks its opcodes, and what a list of files never needs is
refused by name. Then a child process with hardly any rights unpickles it against an allow-list (lake/pickle_child.py) and sends back
plain rows. Neither step imports anything that the pickle names.
"""

from __future__ import annotations

import json
import pickletools
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lake import pickle_child
from lake.errors import Refused

MAX_SIZE = 2 << 30
MAX_OPCODES = 400_000_000
MAX_LONG = 64
MAX_VALUES = 50_000_000
MEMORY_AT_LEAST, MEMORY_AT_MOST, MEMORY_TIMES = 1 << 30, 8 << 30, 24
WAIT_S = 900
FIX = "write the list as text, one path a line (`--files`), or as a pickle of plain lists, dictionaries, strings and numbers"
# what plain containers, arrays of numbers and times never use
REFUSED_OPCODES = {
    "PERSID": "it refers to objects outside the file (persistent ids)",
    "BINPERSID": "it refers to objects outside the file (persistent ids)",
    "EXT1": "it uses the registry of extensions (copyreg)",
    "EXT2": "it uses the registry of extensions (copyreg)",
    "EXT4": "it uses the registry of extensions (copyreg)",
    "INST": "it makes an instance of a class (INST)",
    "OBJ": "it makes an instance of a class (OBJ)",
    "NEWOBJ_EX": "it makes an instance of a class (NEWOBJ_EX)",
    "NEXT_BUFFER": "its bytes are in another place (out-of-band buffers)",
    "READONLY_BUFFER": "its bytes are in another place (out-of-band buffers)",
}
STRINGS = frozenset(
    {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING"}
)
PUTS = frozenset({"MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"})
GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})


class ListedFile(NamedTuple):
    """A file that a list names: reference as it stands there."""

    reference: str
    channel: str | None = None
    timestamp_ns: int | None = None
    sample_id: str | None = None


@dataclass(frozen=True)
class Scan:
    """opcodes: how many; globals: (module, name) that could be told without running it."""

    opcodes: int
    globals: tuple[tuple[str, str], ...]


def scan(data: bytes, what: str) -> Scan:
    """Walk the opcodes. Raises Refused, naming what stands in the pickle that a list of files never needs."""
    count = 0
    end = len(data)
    found: dict[tuple[str, str], None] = {}
    recent: list[str] = []  # the strings that were pushed last, nothing else since
    top = ""
    memo: dict[int, str] = {}  # "" for what is no string
    try:
        for opcode, argument, place in pickletools.genops(data):
            count += 1
            if count > MAX_OPCODES:
                raise Refused(what, f"it has more than {MAX_OPCODES:,} opcodes", FIX)
            name = opcode.name
            if name in STRINGS:
                recent = [*recent[-1:], str(argument)]
                top = recent[-1]
            elif name in GETS:
                top = memo.get(int(argument or 0), "")
                recent = [*recent[-1:], top]
            elif name in PUTS:
                memo[len(memo) if argument is None else int(argument)] = top
            elif name not in ("PROTO", "FRAME"):
                _check_opcode(name, argument, place or 0, recent, found, what)
                recent, top = [], ""
                end = (place or 0) + 1 if name == "STOP" else end
    except (ValueError, IndexError, UnicodeDecodeError, OverflowError) as error:
        raise Refused(what, f"it is no pickle: {str(error)[:200]}", FIX) from error
    if end != len(data):
        raise Refused(what, f"{len(data) - end:,} bytes follow after its end", FIX)
    return Scan(count, tuple(found))


def _check_opcode(
    name: str, argument: Any, place: int, recent: list[str], found: dict[tuple[str, str], None], what: str
) -> None:
    if name in REFUSED_OPCODES:
        raise Refused(what, f"{REFUSED_OPCODES[name]}, at byte {place}", FIX)
    if name in ("LONG1", "LONG4", "LONG") and abs(argument).bit_length() > 8 * MAX_LONG:
        raise Refused(what, f"a number of {abs(argument).bit_length() // 8} bytes, at byte {place}", FIX)
    pair: tuple[str, str] | None = None
    if name == "GLOBAL":
        module, _, attribute = str(argument).partition(" ")
        pair = (module, attribute)
    elif name == "STACK_GLOBAL" and len(recent) == 2:
        # a guess: the strings may come from elsewhere; find_class in the child has the last word
        pair = (recent[0], recent[1])
        if "" in pair:
            return
    if pair is not None:
        found[pair] = None
        if pair not in pickle_child.ALLOWED:
            raise Refused(what, f"{pickle_child.why_refused(*pair)} (at byte {place})", FIX)


def read_pickle(path: Path) -> Iterator[ListedFile]:
    """The files that a pickle names, in its order. Raises Refused, with the reason in one line; nothing of it was run."""
    what = f"the pickle {path.name}"
    try:
        size = path.stat().st_size
    except OSError as error:
        raise Refused(
            f"the pickle {path}", error.strerror or str(error), "name a file that can be read"
        ) from error
    if size > MAX_SIZE:
        raise Refused(what, f"it has {size:,} bytes, {MAX_SIZE:,} are read", FIX)
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        raise Refused(what, "it is compressed (gzip)", "unpack it first")
    scan(data, what)
    yield from _in_child(data, what)


def _in_child(data: bytes, what: str) -> Iterator[ListedFile]:
    memory = min(max(MEMORY_AT_LEAST, MEMORY_TIMES * len(data)), MEMORY_AT_MOST)
    command = [sys.executable, "-I", "-B", str(Path(pickle_child.__file__)), str(memory), str(MAX_VALUES)]
    try:
        # no environment: secrets may stand in ours; no shell, no folder of ours
        done = subprocess.run(
            command,
            input=data,
            capture_output=True,
            env={},
            cwd="/",
            timeout=WAIT_S,
            check=False,
            close_fds=True,
        )
    except subprocess.TimeoutExpired as error:
        raise Refused(what, f"reading it took more than {WAIT_S} s", FIX) from error
    lines = done.stdout.splitlines()
    last = json.loads(lines[-1]) if done.returncode == 0 and lines else {}
    if "refused" in last:
        raise Refused(what, str(last["refused"])[:500], FIX)
    if last.get("end") != len(lines) - 1:
        cause = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        raise Refused(what, f"the process that read it died ({cause}): it asks for too much", FIX)
    if not last["end"]:
        raise Refused(
            what, "it names no file: no list of paths and no dictionary with one of the known keys", FIX
        )
    for line in lines[:-1]:
        row = json.loads(line)
        yield ListedFile(row["path"], row["channel"], row["timestamp_ns"], row["sample_id"])
