"""The group as the processes of a node see it: a file that the agent writes, so that a node without control goes on with what it knew.

<state>/group.json      mode 0600: it holds the secret that peers show each other
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import structlog
from pydantic import Field, ValidationError

from cacheengine.wire import Group, Wire

log = structlog.get_logger()


class GroupView(Wire):
    """groups: those whose shares may still be held somewhere, oldest first; the last is the current one."""

    groups: tuple[Group, ...] = ()
    secret: str | None = Field(default=None, repr=False)

    @property
    def current(self) -> Group | None:
        return self.groups[-1] if self.groups else None


def path(state_dir: Path) -> Path:
    return state_dir / "group.json"


def save(state_dir: Path, view: GroupView) -> None:
    """Replace the file; only its owner may read it."""
    target = path(state_dir)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(view.model_dump_json().encode())
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(target)


def load(state_dir: Path) -> GroupView:
    """What was saved; nothing where there is none, or it is damaged: control says it again."""
    try:
        return GroupView.model_validate_json(path(state_dir).read_bytes(), extra="ignore")
    except FileNotFoundError:
        return GroupView()
    except (OSError, ValidationError) as error:
        log.warning("group_unusable", error=type(error).__name__)
        return GroupView()


class Watched:
    """The view as it is in the file now; read again when the file changes. May be called from many threads."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._lock = threading.Lock()
        self._seen = -1
        self._view = GroupView()

    def __call__(self) -> GroupView:
        try:
            now = path(self._state_dir).stat().st_mtime_ns
        except FileNotFoundError:
            now = -1
        with self._lock:
            if now != self._seen:
                self._view, self._seen = load(self._state_dir), now
            return self._view
