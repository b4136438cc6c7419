"""Canonical JSON and BLAKE3: the one way to name content.

The JSON is that of RFC 8785 restricted to objects, arrays, strings, booleans, null and integers (no floats): sorted
keys, no white space, UTF-8. Unlike there, integers are exact over 64 bits: times in ns do not fit a double.
"""

from __future__ import annotations

import json
import re
from typing import Any

from blake3 import blake3

from lake.errors import Corrupt, Refused

HEX64 = re.compile(r"[0-9a-f]{64}")
LARGEST_INTEGER = 2**63


def _check(value: object, where: str) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise Refused(f"canonical JSON at {where}", f"the key {key!r} is no string")
            _check(inner, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            _check(inner, f"{where}[{place}]")
    elif isinstance(value, int):  # booleans too
        if abs(value) >= LARGEST_INTEGER and not isinstance(value, bool):
            raise Refused(
                f"canonical JSON at {where}", f"{value} does not fit 64 bits", "write it as a string"
            )
    elif value is not None and not isinstance(value, str):
        raise Refused(f"canonical JSON at {where}", f"{type(value).__name__} has no canonical form")


def canonical_json(value: object) -> bytes:
    """Canonical bytes of a value of dicts, lists, strings, integers, booleans and None. Raises Refused for others."""
    _check(value, "$")
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def blake3_hex(data: bytes | memoryview) -> str:
    """64 hex digits."""
    return blake3(data).hexdigest()


def is_hash(text: str) -> bool:
    """Whether this is a whole BLAKE3 in hex: ids reach paths and keys, so they are checked wherever they come in."""
    return HEX64.fullmatch(text) is not None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def read_json(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object from bytes that nobody has checked. Raises Corrupt, naming `what`."""
    try:
        value = json.loads(data, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise Corrupt(what, f"it is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise Corrupt(what, "it is not a JSON object")
    return value
