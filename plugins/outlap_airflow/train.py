"""The example training command: read every frame below a folder once, in random order.

    python -m outlap_airflow.train MOUNT [--readers N] [--seed N]

Prints one line of JSON: frames, bytes, seconds, frames_per_s, bytes_per_s and `digest`, the BLAKE3 over
`path NUL content id LF` of all files in ascending order of path, so that whoever knows the version can tell whether each
byte was right. Exit code 1 when a file could not be read.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from blake3 import blake3


def digest_of(rows: Iterable[tuple[bytes, str]]) -> str:
    """The digest of (path, content id) pairs in ascending order of path."""
    digest = blake3()
    for path, content_id in rows:
        digest.update(path + b"\0" + content_id.encode() + b"\n")
    return digest.hexdigest()


def files_below(folder: Path) -> list[bytes]:
    """Relative paths of all files, ascending by bytes."""
    base = os.fsencode(folder)
    found = [
        os.path.relpath(os.path.join(where, name), base)  # noqa: PTH118 - bytes, of which pathlib knows nothing
        for where, _, names in os.walk(base, onerror=_stop)
        for name in names
    ]
    return sorted(found)


def _stop(error: OSError) -> None:
    raise error


def read_epoch(folder: Path, readers: int = 4, seed: int | None = None) -> dict[str, object]:
    """Read all files once, in random order; what the module's docstring says. Raises OSError."""
    base = os.fsencode(folder)
    paths = files_below(folder)
    order = list(range(len(paths)))
    random.Random(seed).shuffle(order)  # noqa: S311 - an epoch, not a secret
    ids = [""] * len(paths)
    sizes = [0] * len(paths)

    def read(index: int) -> None:
        with open(base + b"/" + paths[index], "rb") as file:  # noqa: PTH123
            data = file.read()
        ids[index], sizes[index] = blake3(data).hexdigest(), len(data)

    started = time.perf_counter()
    with ThreadPoolExecutor(max(readers, 1)) as pool:
        for _ in pool.map(read, order, chunksize=16):
            pass
    seconds = max(time.perf_counter() - started, 1e-9)
    return {
        "frames": len(paths),
        "bytes": sum(sizes),
        "seconds": seconds,
        "frames_per_s": len(paths) / seconds,
        "bytes_per_s": sum(sizes) / seconds,
        "digest": digest_of(zip(paths, ids, strict=True)),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m outlap_airflow.train", description="Read a mounted version once."
    )
    parser.add_argument("mount", type=Path)
    parser.add_argument("--readers", type=int, default=4)
    parser.add_argument("--seed", type=int)
    asked = parser.parse_args(arguments)
    try:
        told = read_epoch(asked.mount, asked.readers, asked.seed)
    except OSError as error:
        sys.stderr.write(
            f"{error.filename or asked.mount}: {error.strerror}. Next: see `outlap doctor` on this node\n"
        )
        return 1
    sys.stdout.write(json.dumps(told) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
