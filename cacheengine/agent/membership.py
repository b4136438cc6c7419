"""The group as this node hears of it, and what follows for the shares that it holds.

What was its share when the group was last settled is kept, and served, until the group is settled again: then others hold it.
"""

from __future__ import annotations

import structlog

from cacheengine.agent.state import Node
from cacheengine.client import Control
from cacheengine.peers import groupview
from cacheengine.wire import Group, GroupAnswer
from lake.config import read_secret
from lake.errors import Explained

AWAY_S = 2.0
LONG_POLL_S = 20.0
HEAR_S = 3.0
LAGS_S = 0.5

log = structlog.get_logger()


def still_held(groups: tuple[Group, ...], new: Group) -> tuple[Group, ...]:
    """Groups whose shares must be kept, the new one last: those since the last that was settled."""
    before = [g for g in groups if new.settled <= g.generation < new.generation]
    return (*before, new)


def take_group(node: Node, answer: GroupAnswer) -> bool:
    """Let the group be this. Shares of spread versions are worked out anew when its members changed.

    False for an older one: an instance of control that lags behind said it. A database that was lost begins anew, with another secret.
    """
    new = answer.group
    with node.lock:
        old = node.group
        if old is not None and new.revision < old.revision and answer.secret == node.secret:
            return False
        node.groups = still_held(node.groups, new)
        node.secret = read_secret(node.config.peer_secret) if node.config.peer_secret else answer.secret
        groupview.save(node.config.state_dir, node.view())
        moved = old is None or old.generation != new.generation
        for key, status in node.statuses.items():
            if status.desired.placement != "spread" or status.state == "freeing" or status.evicted:
                continue
            status.look_ns = 0
            if moved:
                status.state, status.retry_ns, status.tries = "waiting", 0, 0
                if node.warming == key:
                    node.stop_warm.set()  # it goes on with the new share
    if moved:
        log.info("group_changed", generation=new.generation, settled=new.settled, nodes=len(new.nodes))
    node.wake.set()
    return True


def hear(node: Node, control: Control) -> None:
    """Ask once for the group, before a warm: who it is shared with may have joined a moment ago. What goes wrong, `follow` tells."""
    group = node.group
    try:
        answer = control.group(-1 if group is None else group.revision, timeout_s=HEAR_S)
        if group is None or answer.group.revision > group.revision:
            take_group(node, answer)
    except (Explained, OSError) as error:
        log.info("group_not_heard", error=str(error))


def follow(node: Node, control: Control) -> None:
    """Take each new group until the node ends."""
    while not node.ending.is_set():
        try:
            group = node.group
            revision = -1 if group is None else group.revision
            answer = control.group(revision, LONG_POLL_S)
            is_news = answer.group.revision != revision or answer.secret != node.secret
            if is_news and not take_group(node, answer):
                node.ending.wait(LAGS_S)
            node.works("group")
        except (Explained, OSError) as error:
            node.failed("group", error)
            node.ending.wait(AWAY_S)
        except Exception as error:
            log.exception("unexpected", part="group")
            node.failed("group", error)
            node.ending.wait(AWAY_S)
