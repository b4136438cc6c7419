"""What pages read from: stores, control services, and what this process remembers of both."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from lake import stores
from lake.config import Config, load_config, read_secret
from lake.errors import NotFound
from lake.stores import Store
from outlap_airflow.pages.asking import Answer, Asked

FRESH_S = 3.0  # stores
LIVE_S = 1.0  # control services
LIMIT_S = 3.0
READERS = 16


@dataclass
class Memory:
    """asked: of stores and control services; counted: slow questions, so that they keep nobody else waiting; read: small objects."""

    asked: Asked = field(default_factory=Asked)
    counted: Asked = field(default_factory=lambda: Asked(threads=2, most=20_000))
    read: dict[tuple[str, str], dict[str, tuple[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Sources:
    """config: where stores and control services are; memory: of this process."""

    config: Config
    memory: Memory

    def lake(self, idc: str) -> Store:
        """Raises NotFound, Refused."""
        return _handle(self.config, idc)

    def controls(self) -> list[str]:
        """IDCs with a control service, sorted."""
        return sorted(name for name, idc in self.config.idcs.items() if idc.control is not None)


_memory = Memory()


def sources() -> Sources:
    """With the settings as they are now."""
    return Sources(load_config(), _memory)


def _handle(config: Config, idc: str) -> Store:
    chosen = config.store_named(config.idc_named(idc).store)
    # a secret that was changed makes a new handle; else connections are used again
    keys = (chosen.access_key_id, chosen.secret_access_key)
    return _opened(chosen, config.idc, tuple(read_secret(key) if key else None for key in keys))


@lru_cache(maxsize=64)
def _opened(config: Any, from_idc: str, _secrets: tuple[str | None, ...]) -> Store:
    return stores.open_store(config, from_idc)


def read_changed(
    memory: Memory, store: Store, prefix: str, parse: Callable[[bytes, str], Any], suffix: str = ".json"
) -> dict[str, Any]:
    """key → parsed object, of all objects below a prefix. One whose etag is what it was is not read again."""
    known = memory.read.get((store.where, prefix), {})
    listed = {info.key: info.etag for info in stores.list_objects(store, prefix) if info.key.endswith(suffix)}
    kept = {
        key: known[key] for key, etag in listed.items() if etag and key in known and known[key][0] == etag
    }

    def fetch(key: str) -> tuple[str, bytes | None]:
        try:
            return key, stores.get(store, key)
        except NotFound:
            return key, None  # it went away in between

    with ThreadPoolExecutor(READERS) as pool:
        for key, data in pool.map(fetch, [key for key in listed if key not in kept]):
            if data is not None:
                kept[key] = (listed[key] or "", parse(data, key))
    memory.read[store.where, prefix] = kept
    return {key: value for key, (_, value) in kept.items()}


def told(answers: Iterable[tuple[str, Answer]]) -> list[dict[str, Any]]:
    """What a page says of the services behind it: [{idc, at_ns, problem}]."""
    return [{"idc": idc, "at_ns": answer.at_ns, "problem": answer.problem} for idc, answer in answers]
