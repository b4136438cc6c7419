"""What every order and every route of the control service works with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import Engine

from cacheengine.control.activejobs import ActiveJobs
from cacheengine.control.board import Board
from cacheengine.control.groupsettings import Chosen, GroupSettings, chosen
from cacheengine.control.jobs import Limits
from cacheengine.control.settings import ControlSettings
from cacheengine.wire import GroupAnswer, Heartbeat, Held, TokenAnswer
from lake.stores import Store

INTERVALS_TO_DIE = 3.0


@dataclass
class Service:
    """`lake` opens this IDC's lake. `defaults`: of settings that nobody set; `chosen`: what holds now.

    What is kept in memory follows the database (cacheengine.control.abreast): `board` of nodes, `active` jobs, `scopes` of tokens by
    hash. `group`: as it was last looked at, and as it is sent by encoding; `held`: what nodes hold, and the stamp of that.
    `board.started_ns`: when this service began to listen; it judges no silence before that.
    """

    engine: Engine
    lake: Callable[[], Store]
    board: Board
    defaults: GroupSettings = field(default_factory=GroupSettings)
    chosen: Chosen = field(default_factory=lambda: chosen(GroupSettings(), {}))
    active: ActiveJobs = field(default_factory=ActiveJobs)
    scopes: dict[str, TokenAnswer] = field(default_factory=dict)
    now_ns: Callable[[], int] = time.time_ns
    group: GroupAnswer | None = None
    group_bodies: dict[str, bytes] = field(default_factory=dict)
    group_changed: asyncio.Event = field(default_factory=asyncio.Event)
    held: tuple[tuple[int, int], tuple[Held, ...]] | None = None

    @property
    def interval_s(self) -> float:
        """How often a node is to report."""
        return self.chosen.group.interval_s(len(self.board.nodes))

    @property
    def fetching_s(self) -> float:
        """How often a node that fetches is to report."""
        return self.chosen.group.fetching_s(len(self.board.nodes))

    @property
    def limits(self) -> Limits:
        group, interval_s = self.chosen.group, self.interval_s
        # a node that was told to report more rarely is not dead for it
        stretched = INTERVALS_TO_DIE * interval_s if interval_s > group.heartbeat_interval_s else 0.0
        return Limits(max(group.dead_after_s, stretched), group.dead_grace_s)

    @property
    def deaf_ns(self) -> int:
        """Where nobody was heard for so long, it is this service that does not hear; less than what makes anyone lose a share."""
        least_s = min(self.limits.dead_after_s, self.chosen.group.member_away_s / 2)
        return int(max(INTERVALS_TO_DIE * self.interval_s, least_s) * 1e9)


@dataclass
class Watch:
    """What each background loop last stumbled over, by its name. Shown by /healthz."""

    problems: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Running:
    """One process of the service. `abreast`: held while memory and database are brought together. `joining`: nodes that wait for it."""

    settings: ControlSettings
    idc: str
    service: Service
    watch: Watch = field(default_factory=Watch)
    abreast: asyncio.Lock = field(default_factory=asyncio.Lock)
    joining: dict[str, Heartbeat] = field(default_factory=dict)
