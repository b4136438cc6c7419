"""`outlap doctor`: whether this machine can do everything, and what to do where it cannot."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from outlap import show
from outlap.batch import failure_of
from outlap.options import AsJson

if TYPE_CHECKING:
    from pydantic import BaseModel


@dataclass(frozen=True)
class Check:
    """ok: None where it only informs. fix: the next step when it is not ok."""

    name: str
    ok: bool | None
    found: str
    fix: str = ""


def doctor(as_json: AsJson = False) -> None:
    """Check this machine: Python, rights, FUSE, how views are mounted and why so, disk, commands, settings, the stack."""
    checks = [check for find in FINDERS for check in _checked(find)]
    if as_json:
        show.json_line([asdict(check) for check in checks])
    else:
        words = {True: "ok", False: "NOT OK", None: "-"}
        show.table(("check", "", "found", "next"), [(c.name, words[c.ok], c.found, c.fix) for c in checks])
    raise typer.Exit(1 if any(check.ok is False for check in checks) else 0)


def _checked(find: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """The checks of a finder; what it raises is a check that is not ok, and the others go on."""
    try:
        yield from find()
    except Exception as error:
        name = find.__name__.strip("_")
        failure = failure_of(error, name, "report it")
        yield Check(name, False, f"{failure.what}: {failure.why}", failure.fix)


def _python() -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    new = sys.version_info >= (3, 11)
    yield Check("Python", new, version, "" if new else "use Python 3.11 or newer")


def _rights() -> Iterator[Check]:
    root = os.geteuid() == 0
    fix = "run nodes as root, or with CAP_SYS_ADMIN"
    yield Check("may mount", root, "root" if root else f"user {os.geteuid()}", "" if root else fix)
    fuse = Path("/dev/fuse").exists()
    yield Check(
        "/dev/fuse",
        fuse,
        "there" if fuse else "missing",
        "" if fuse else "`modprobe fuse`; give it to the container",
    )


def _views() -> Iterator[Check]:
    from cacheengine.views.backends import choose_backend

    backend, why = choose_backend("auto")
    yield Check("views", None, f"{backend}: {why}")


def _decoder() -> Iterator[Check]:
    from transforms import gpu

    for codec in gpu.CODECS:
        why = gpu.why_not_taken(codec)
        yield Check(f"decoder of {codec}", None, "GPU" if why is None else f"CPU: {why}")


def _commands() -> Iterator[Check]:
    from outlap.stack.layout import scripts

    for name in ("weed", "airflow"):
        there = (scripts() / name).exists()
        yield Check(
            name, there, str(scripts() / name) if there else "missing", "" if there else "run `make setup`"
        )
    for name in ("fusermount3", "umount"):
        path = shutil.which(name)
        yield Check(name, path is not None, path or "missing", "" if path else "install fuse3 and util-linux")


def _disk() -> Iterator[Check]:
    from lake.config import home

    folder = home()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    enough = free > 5 << 30
    yield Check(
        "disk", enough, f"{show.size(free)} free under {home()}", "" if enough else "make room: 5 GiB or more"
    )


def _settings() -> Iterator[Check]:
    from lake.config import load_config
    from lake.errors import Explained

    try:
        config = load_config()
    except Explained as error:
        yield Check("settings", False, f"{error.what}: {error.why}", error.fix)
        return
    unknown = sorted(set(config.tables) - {"here", "idc", "store", *_sections()})
    if unknown:
        known = [*_sections(), "idc", "store"]
        near = [match for name in unknown for match in get_close_matches(name, known, 1)]
        fix = f"did you mean [{near[0]}]?" if near else f"sections are: {', '.join(known)}"
        yield Check("settings", False, f"nothing reads [{'], ['.join(unknown)}]", fix)
    for name, model in _sections().items():
        try:
            if name in config.tables:
                config.section(name, model)
        except Explained as error:
            yield Check("settings", False, f"{error.what}: {error.why}", error.fix)
    names = (
        ", ".join(sorted(config.idcs)) or "no IDC (start the local stack, or describe some in outlap.toml)"
    )
    yield Check("settings", True, names)


def _sections() -> dict[str, type[BaseModel]]:
    """Section of outlap.toml → the model that reads it."""
    from outlap_airflow.settings import AirflowSettings

    from cacheengine.node import NodeConfig
    from lake.sync_settings import SyncSettings
    from outlap.stack.settings import StackSettings

    return {"airflow": AirflowSettings, "node": NodeConfig, "stack": StackSettings, "sync": SyncSettings}


def store_checks() -> Iterator[Check]:
    """Each lake of the settings that may be written: what the lake needs of it is tried out now (lake/store_probe.py)."""
    from lake.config import load_config
    from lake.errors import Explained
    from lake.store_probe import FIX, probe
    from lake.stores import open_store

    try:
        config = load_config()
    except Explained:
        return  # `settings` says it
    lakes = {idc.store for idc in config.idcs.values()}
    for name in sorted(lakes & set(config.stores)):
        if config.stores[name].read_only:
            continue
        try:
            store = open_store(config.stores[name], config.idc or None)
            problems = probe(store.name, store.where, store.obs)
        except Explained as error:
            yield Check(f"store {name}", False, error.why or error.what, error.fix)
            continue
        found = "; ".join(problems) or "conditional writes and ETags are as the lake needs them"
        yield Check(f"store {name}", not problems, found, FIX if problems else "")


def _stack() -> Iterator[Check]:
    from lake.config import home
    from outlap.stack.layout import Layout
    from outlap.stack.status import read_status

    found = read_status(Layout(home()))
    if not found.up:
        yield Check("local stack", None, "not up", "`outlap up`")
        return
    ill = [f"{p.name}: {p.detail or p.state}" for p in found.processes if not p.healthy]
    yield Check(
        "local stack", not ill, "; ".join(ill) or "healthy", "`outlap status` names the logs" if ill else ""
    )


FINDERS: tuple[Callable[[], Iterator[Check]], ...] = (
    _python,
    _rights,
    _views,
    _decoder,
    _commands,
    _disk,
    _settings,
    store_checks,
    _stack,
)
