"""Outlap: from a drive to a warm, verified, versioned dataset under the training job.

    import outlap

    frames = outlap.open_dataset("front@v3")
    for file in frames:                       # path, size, content_id, drive, channel, timestamp_ns, …
        data = frames.read(file.path)         # checked bytes, from the store

`outlap://NAME@TAG/path` does the same for everything that speaks fsspec (pandas, Dask, PyArrow, …).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lake.config import Config
    from outlap.dataset import Dataset, File

__all__ = ["Dataset", "File", "open_dataset"]


def open_dataset(name: str, idc: str | None = None, config: Config | None = None) -> Dataset:
    """Open a version: `NAME@TAG`, `NAME` (latest) or `NAME@` and the first digits of its id.

    idc: whose store to read, default the one of this machine. config: settings, default those of $OUTLAP_HOME. Raises
    lake.errors.NotFound (no such dataset, tag, or not wholly in that store), Refused, StoreDown.
    """
    from outlap import dataset

    return dataset.open_dataset(name, idc, config)


def __getattr__(name: str) -> object:
    # imported when asked for: the command must start without pyarrow
    if name in ("Dataset", "File"):
        from outlap import dataset

        return getattr(dataset, name)
    raise AttributeError(f"module 'outlap' has no attribute {name!r}")
