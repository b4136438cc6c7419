"""What every order and every route of the control service works with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import Engine

from cacheengine.control.bell import Bell
from cacheengine.control.jobs import Limits
from cacheengine.control.settings import ControlSettings
from lake.stores import Store


class Service(NamedTuple):
    """`lake` opens this IDC's lake. `started_ns`: when this service began to listen; it judges no silence before that."""

    engine: Engine
    lake: Callable[[], Store]
    limits: Limits
    started_ns: int
    now_ns: Callable[[], int] = time.time_ns


@dataclass
class Watch:
    """What the background watch last stumbled over; None while all is well. Shown by /healthz."""

    problem: str | None = None


@dataclass(frozen=True)
class Running:
    """One process of the service. Bells ring when desired residency, or what nodes report, changed here."""

    settings: ControlSettings
    idc: str
    service: Service
    desired_changed: Bell
    reports_changed: Bell
    watch: Watch = field(default_factory=Watch)
