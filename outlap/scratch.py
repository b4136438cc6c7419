"""Room for temporary files: below $OUTLAP_HOME, whose disk the user chose, never a small /tmp."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lake.config import home


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone at the end."""
    root = home() / "scratch"
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as folder:
        yield Path(folder)
