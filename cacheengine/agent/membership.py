"""The group as this node hears of it, and what follows for the shares that it holds.

What was its share when the group was last settled is kept, and served, until the group is settled again: then others hold it.
"""

from __future__ import annotations

import structlog

from cacheengine import groupview
from cacheengine.agent.state import Node
from cacheengine.client import Control
from cacheengine.wire import Group, GroupAnswer
from lake.config import read_secret
from lake.errors import Explained

AWAY_S = 2.0
LONG_POLL_S = 20.0

log = structlog.get_logger()


def still_held(groups: tuple[Group, ...], new: Group) -> tuple[Group, ...]:
    """Groups whose shares must be kept, the new one last: those since the last that was settled."""
    before = [g for g in groups if new.settled <= g.generation < new.generation]
    return (*before, new)


def take_group(node: Node, answer: GroupAnswer) -> None:
    """Let the group be this. Shares of spread versions are worked out anew when its members changed."""
    new = answer.group
    with node.lock:
        old = node.group
        node.groups = still_held(node.groups, new)
        node.secret = read_secret(node.config.peer_secret) if node.config.peer_secret else answer.secret
        groupview.save(node.config.state_dir, node.view())
        moved = old is None or old.generation != new.generation
        for key, status in node.statuses.items():
            if status.desired.placement != "spread" or status.state == "freeing" or status.evicted:
                continue
            status.checked_ns = 0
            if moved:
                status.state, status.retry_ns, status.tries = "waiting", 0, 0
                if node.warming == key:
                    node.stop_warm.set()  # it goes on with the new share
    if moved:
        log.info("group_changed", generation=new.generation, settled=new.settled, nodes=len(new.nodes))
    node.wake.set()


def follow(node: Node, control: Control) -> None:
    """Take each new group until the node ends."""
    while not node.ending.is_set():
        try:
            group = node.group
            revision = -1 if group is None else group.revision
            answer = control.group(revision, LONG_POLL_S)
            if answer.group.revision != revision or answer.secret != node.secret:
                take_group(node, answer)
            node.works("group")
        except (Explained, OSError) as error:
            node.failed("group", error)
            node.ending.wait(AWAY_S)
        except Exception as error:
            log.exception("unexpected", part="group")
            node.failed("group", error)
            node.ending.wait(AWAY_S)
