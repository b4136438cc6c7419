"""A container's way of holding a view: a bind of it in a private mount namespace, which lives on after `umount` on the host.

`python -m tests.cacheengine.private_mounts VIEW FOLDER`, run by `held_elsewhere` in a namespace of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cacheengine.faulty import read_cold

ZEROS, ERROR = "zeros", "error"


@dataclass(frozen=True)
class Elsewhere:
    """A namespace that holds a view. process: who lives in it; with it the namespace ends."""

    process: subprocess.Popen[str]

    def read(self, path: str) -> bytes | str:
        """The bytes of a file of the view as they are seen there, from the disk; ZEROS, or ERROR."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(path + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline().strip()
        return line if line in (ZEROS, ERROR) else bytes.fromhex(line)

    def seen(self, files: dict[str, bytes]) -> dict[str, int]:
        """How many of these files were right, wrong, zeros or an error."""
        found = {"right": 0, "wrong": 0, ZEROS: 0, ERROR: 0}
        for path, data in files.items():
            got = self.read(path)
            found[got if isinstance(got, str) else "right" if got == data else "wrong"] += 1
        return found

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def held_elsewhere(view: Path, folder: Path) -> Iterator[Elsewhere]:
    """Bind a view in a private mount namespace until the end of the block. folder: an empty one to bind it to."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["unshare", "-m", "--propagation", "private", sys.executable, "-m", __name__]
    process = subprocess.Popen(
        [*command, str(view), str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    elsewhere = Elsewhere(process)
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield elsewhere
    finally:
        elsewhere.end()


def main() -> None:
    view, folder = map(Path, sys.argv[1:])
    subprocess.run(["mount", "--bind", str(view), str(folder)], check=True)
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            data = read_cold(folder / line.strip())
        except OSError:
            print(ERROR, flush=True)
            continue
        print(ZEROS if data == bytes(len(data)) else data.hex(), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
