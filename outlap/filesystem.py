"""`outlap://NAME@TAG/path` for everything that speaks fsspec. Read-only; every byte is checked before it is given.

Source of the interface: filesystem_spec's documentation, `fsspec.spec.AbstractFileSystem`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from fsspec.spec import AbstractFileSystem

from lake.config import Config
from lake.errors import NotFound, StoreDown
from outlap.dataset import Dataset, open_dataset


class OutlapFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """Versions as folders: `NAME@TAG/…`. Options: idc (whose store), config (settings; default those of $OUTLAP_HOME).

    Raises FileNotFoundError where the version has no such file, OSError for a store that does not answer and for wrong bytes.
    """

    protocol = "outlap"
    root_marker = ""

    def __init__(self, idc: str | None = None, config: Config | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._idc, self._config = idc, config
        self._open_versions: dict[str, Dataset] = {}

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        return str(path).removeprefix("outlap://").removeprefix("outlap::").strip("/")

    def unstrip_protocol(self, name: str) -> str:
        """The whole address of a path."""
        return f"outlap://{self._strip_protocol(name)}"

    def dataset(self, path: str) -> tuple[Dataset, str]:
        """The version that a path lies in, and the path in it. A version is opened once."""
        name, _, inner = self._strip_protocol(path).partition("/")
        if not name:
            raise FileNotFoundError("outlap:// needs a dataset: outlap://NAME@TAG/path")
        if name not in self._open_versions:
            try:
                self._open_versions[name] = open_dataset(name, self._idc, self._config)
            except NotFound as error:
                raise FileNotFoundError(str(error)) from error
            except StoreDown as error:
                raise OSError(str(error)) from error
        return self._open_versions[name], inner

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """name, size, type; of a file also its content id and columns."""
        stripped = self._strip_protocol(path)
        found, inner = self.dataset(path)
        if inner and inner in found:
            file = found.file(inner)
            more = {"content_id": file.content_id, "timestamp_ns": file.timestamp_ns, "channel": file.channel}
            return {"name": stripped, "size": file.size, "type": "file", **more}
        if inner and not any(table.num_rows for table in found.below(inner)):
            raise FileNotFoundError(f"{found.name}@{found.tag} has no {inner!r}")
        return {"name": stripped, "size": 0, "type": "directory"}

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """What lies directly in a folder; a file alone gives itself."""
        about = self.info(path)
        rows = [about] if about["type"] == "file" else list(self._children(path))
        return rows if detail else [row["name"] for row in rows]

    def _children(self, path: str) -> Iterator[dict[str, Any]]:
        found, inner = self.dataset(path)
        top = self._strip_protocol(path)
        start = len(inner) + 1 if inner else 0
        last = None
        for table in found.below(inner):
            for name, size in zip(table["path"].to_pylist(), table["size"].to_pylist(), strict=True):
                head, slash, _ = name[start:].partition("/")
                if not slash:
                    yield {"name": f"{top}/{head}", "size": size, "type": "file"}
                elif head != last:
                    # sorted by path: all of a folder comes together
                    last = head
                    yield {"name": f"{top}/{head}", "size": 0, "type": "directory"}

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        **options: Any,
    ) -> Any:
        """Every file below a folder, without walking it."""
        if maxdepth is not None or withdirs or self.info(path)["type"] == "file":
            return super().find(path, maxdepth, withdirs, detail=detail, **options)
        found, inner = self.dataset(path)
        name = self._strip_protocol(path).partition("/")[0]
        rows: dict[str, dict[str, Any]] = {}
        for table in found.below(inner):
            for one, size in zip(table["path"].to_pylist(), table["size"].to_pylist(), strict=True):
                rows[f"{name}/{one}"] = {"name": f"{name}/{one}", "size": size, "type": "file"}
        return rows if detail else sorted(rows)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """The bytes of a file, or of a part of it: the whole file is read and checked in any case."""
        found, inner = self.dataset(path)
        try:
            return found.read(inner)[start:end]
        except NotFound as error:
            raise FileNotFoundError(str(error)) from error
        except StoreDown as error:
            raise OSError(str(error)) from error

    def cat(self, path: Any, recursive: bool = False, on_error: str = "raise", **options: Any) -> Any:
        """Many files of one version cost few requests."""
        paths = (
            self.expand_path(path, recursive=recursive) if recursive or not isinstance(path, list) else path
        )
        files = [one for one in paths if not recursive or self.isfile(one)]
        if not isinstance(path, list) and not recursive and len(files) == 1 and "*" not in str(path):
            return self.cat_file(files[0], **options)
        if on_error != "raise":
            return super().cat(path, recursive, on_error, **options)
        by_version: dict[str, list[str]] = {}
        for one in files:
            name, _, inner = self._strip_protocol(one).partition("/")
            by_version.setdefault(name, []).append(inner)
        data = {}
        try:
            for name, inners in by_version.items():
                for inner, content in self.dataset(name)[0].read_many(inners):
                    data[f"{name}/{inner}"] = content
        except NotFound as error:
            raise FileNotFoundError(str(error)) from error
        return {one: data[self._strip_protocol(one)] for one in files}

    def _open(self, path: str, mode: str = "rb", **_: Any) -> io.BytesIO:
        if mode != "rb":
            raise PermissionError(
                f"{path}: a published version is never written; `outlap publish` makes the next"
            )
        return io.BytesIO(self.cat_file(path))

    def created(self, path: str) -> None:
        """Unknown: files have no times of their own, frames have `timestamp_ns` in info()."""

    def checksum(self, path: str) -> str:
        """The content id of a file, the version id of a folder."""
        found, inner = self.dataset(path)
        return found.file(inner).content_id if inner in found else found.version
