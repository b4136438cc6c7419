"""Ports of the stack: free ones, chosen at the first `outlap up` and kept while nobody else takes them.

They are chosen below the range that the kernel gives to outgoing connections (32768 and up), so that none of those
can sit on one of ours while the stack is down. SeaweedFS speaks gRPC at port + 10000: those are kept free too.
"""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from outlap.errors import StackError
from outlap.stack.layout import IDCS, NODES

LOWEST, HIGHEST = 12_000, 22_000
GRPC_OFFSET = 10_000
STORE_PORTS = tuple(f"store-{idc}-{part}" for idc in IDCS for part in ("s3", "filer", "master", "volume"))
NAMES = (
    *STORE_PORTS,
    *(f"control-{idc}" for idc in IDCS),
    *NODES,
    "airflow",
    "airflow-worker-logs",
    "airflow-trigger-logs",
)


def is_free(port: int) -> bool:
    """Whether a server could listen on the loopback address now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _ports_of(name: str, port: int) -> set[int]:
    return {port, port + GRPC_OFFSET} if name in STORE_PORTS else {port}


def choose(
    names: Iterable[str],
    kept: Mapping[str, int],
    asked: Mapping[str, int],
    seed: str,
    free: Callable[[int], bool] = is_free,
) -> dict[str, int]:
    """A port for each name: what the settings ask, else what was kept, else a free one.

    Raises StackError when a port of the settings is taken, or is given to two.
    """
    names = list(names)
    unknown = sorted(set(asked) - set(names))
    if unknown:
        raise StackError(
            f"the port setting {unknown[0]!r}",
            f"the stack has no such port; it has {', '.join(names)}",
            "correct [stack] ports in outlap.toml",
        )
    chosen: dict[str, int] = {}
    used: set[int] = set()

    def take(name: str, port: int) -> bool:
        wanted = _ports_of(name, port)
        if wanted & used or not all(0 < one < 65_536 and free(one) for one in wanted):
            return False
        chosen[name] = port
        used.update(wanted)
        return True

    for name, port in asked.items():
        if not take(name, port):
            also = f" (or {port + GRPC_OFFSET}, its gRPC port)" if name in STORE_PORTS else ""
            raise StackError(
                f"port {port} for {name}",
                f"another process listens on it{also}, or it was given twice",
                "end that process, or choose another port in [stack] ports of outlap.toml",
            )
    for name in names:
        if name not in chosen and name in kept:
            take(name, kept[name])
    candidates = list(range(LOWEST, HIGHEST))
    random.Random(seed).shuffle(candidates)  # noqa: S311 (spreads several stacks, no secret)
    for name in names:
        if name not in chosen and not any(take(name, port) for port in candidates):
            raise StackError(
                f"a port for {name}",
                f"none between {LOWEST} and {HIGHEST} is free",
                "name one in [stack] ports",
            )
    return {name: chosen[name] for name in names}


def read_kept(path: Path) -> dict[str, int]:
    """The ports of the last `up`; nothing when there was none or the file is damaged (they are only a preference)."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(value, dict):
        return {}
    return {str(name): port for name, port in value.items() if isinstance(port, int)}
