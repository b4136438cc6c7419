"""The settings of a cache group that control keeps: what each is, what is legal, and what holds now. Pure.

A value is JSON. Keys: those of GroupSettings, `link.FROM.TO` (budget of a link), `free.DATASET` (policy that frees it).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, TypeAdapter, ValidationError

from lake.errors import Refused
from lake.names import PART, check_dataset

Hour = Annotated[int, Field(ge=0, le=23)]


class Budget(BaseModel):
    """Bytes a second of a link; `hours`: exceptions by UTC hour of day (0: nothing may be sent then). None: no limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    bps: ByteSize | None = Field(default=None, ge=0)
    hours: dict[Hour, Annotated[ByteSize, Field(ge=0)] | None] = Field(default_factory=dict)

    def at(self, hour: int) -> int | None:
        """Bytes a second in this hour of the day (UTC)."""
        return self.hours.get(hour, self.bps)


class Policy(BaseModel):
    """When versions of a dataset are freed by themselves. What is pinned or mounted never is.

    after-training: `after_s` after the last mount of a version ended. older-than: `days` after it was warmed or last mounted.
    pressure: the least recently used first, on a node whose cache is filled above `above` of its quota.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    policy: Literal["after-training", "older-than", "pressure"]
    after_s: float = Field(default=60.0, ge=0)
    days: float = Field(default=30.0, gt=0)
    above: float = Field(default=0.9, gt=0, lt=1)


FETCHING_S = 0.5


class GroupSettings(BaseModel):
    """heartbeat_interval_s: how often a node reports, at least; longer where the group would send more than `heartbeats_per_s`.
    dead_after_s: a node silent for so long is dead; dead_grace_s: how much longer a job waits for it. bandwidth_bps: what each node may
    fetch, in bytes a second, unless a warm says otherwise. keep_days: how long jobs that ended, and file lists, are kept.
    member_away_s: a node silent for so long loses its share of spread versions; before that, nothing moves.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    heartbeat_interval_s: float = Field(default=2.0, gt=0, le=60)
    heartbeats_per_s: float = Field(default=200.0, gt=0)
    dead_after_s: float = Field(default=15.0, gt=0)
    dead_grace_s: float = Field(default=30.0, ge=0)
    bandwidth_bps: ByteSize | None = Field(default=None, gt=0)
    keep_days: float = Field(default=30.0, gt=0)
    member_away_s: float = Field(default=300.0, gt=0)

    def interval_s(self, nodes: int) -> float:
        """How often each of so many nodes is to report."""
        return max(self.heartbeat_interval_s, nodes / self.heartbeats_per_s)

    def fetching_s(self, nodes: int) -> float:
        """How often each of so many nodes is to report while it fetches: progress moves at least once a second, in groups that can."""
        return min(self.interval_s(nodes), max(FETCHING_S, nodes / self.heartbeats_per_s))


_LINK = TypeAdapter(Budget)
_POLICY = TypeAdapter(Policy)
_FIX = "`outlap config show` lists the keys and what holds"


def check_key(key: str) -> None:
    """Raises Refused for a key that means nothing."""
    kind, _, name = key.partition(".")
    if kind == "free":
        check_dataset(name)
    elif key not in GroupSettings.model_fields and not (kind == "link" and _is_link(name)):
        raise Refused(f"the setting {key[:100]!r}", "there is no such setting", _FIX)


def checked(key: str, value: Any) -> Any:
    """The value as it is kept. Raises Refused for an unknown key or a value that is not legal."""
    check_key(key)
    what = f"the setting {key[:100]!r}"
    try:
        if key in GroupSettings.model_fields:
            return getattr(GroupSettings.model_validate({key: value}), key)
        if key.startswith("link."):
            return _LINK.validate_python(value).model_dump(mode="json", exclude_unset=True)
        return _POLICY.validate_python(value).model_dump(mode="json", exclude_unset=True)
    except ValidationError as error:
        causes = "; ".join(
            f"{'.'.join(map(str, item['loc'])) or 'it'}: {item['msg']}" for item in error.errors()[:10]
        )
        raise Refused(what, causes, "correct the value") from error


def _is_link(name: str) -> bool:
    source, dot, target = name.partition(".")
    return bool(dot) and all(PART.fullmatch(part) and "." not in part for part in (source, target))


class Chosen(BaseModel):
    """All that holds now."""

    model_config = ConfigDict(frozen=True)
    group: GroupSettings
    links: dict[tuple[str, str], Budget]
    policies: dict[str, Policy]


def chosen(defaults: GroupSettings, kept: Mapping[str, str]) -> Chosen:
    """kept: key → JSON of what was set, without keys that have their default again."""
    values = {key: json.loads(text) for key, text in kept.items()}
    named = {key: value for key, value in values.items() if key in GroupSettings.model_fields}
    links = {}
    for key, value in values.items():
        if key.startswith("link."):
            source, target = key.removeprefix("link.").split(".")
            links[source, target] = _LINK.validate_python(value)
    return Chosen(
        group=GroupSettings.model_validate({**defaults.model_dump(), **named}),
        links=links,
        policies={
            key.removeprefix("free."): _POLICY.validate_python(value)
            for key, value in values.items()
            if key.startswith("free.")
        },
    )
