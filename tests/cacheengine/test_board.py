"""Who is silent, as control judges it: nodes that stopped, not a service that was cut off or whose clock was set."""

from __future__ import annotations

import pytest

from cacheengine.control import board
from cacheengine.control.board import Board, Known, Row
from cacheengine.control.group import next_group
from cacheengine.control.jobs import Heard
from cacheengine.wire import DirReport, Group, Heartbeat, Held

S, DEAF_S, AWAY_S = 10**9, 15, 60
SPREAD = Held(version="a" * 64, placement="spread")


def beat(node: str, number: int = 0) -> Heartbeat:
    directory = DirReport(path="/c", medium="ssd", quota=100, used=0, free_on_disk=100)
    return Heartbeat(
        node=node,
        idc="a",
        address="",
        role="gpu",
        agent_version="1",
        boot_id="b",
        generation=0,
        number=number,
        dirs=(directory,),
    )


def heard_at(seconds: float, *nodes: str) -> Board:
    made = Board(int(seconds * S))
    for node in nodes:
        made.nodes[node] = Known(Heard(beat(node), int(seconds * S)), 0, ("", 0))
    return made


def take(known: Board, node: str, seconds: float) -> None:
    board.take(known, beat(node), int(seconds * S), DEAF_S * S)


def look(known: Board, before: Group, seconds: float) -> Group:
    now_ns = board.listening_ns(known, int(seconds * S), DEAF_S * S)
    return next_group(before, board.heard(known), (), [SPREAD], now_ns, AWAY_S)


@pytest.mark.parametrize("away_s", [100, 3 * 86400, -3 * 86400])
def test_a_service_that_heard_nobody_moves_nothing(away_s: int) -> None:
    """Cut off from all, or with a clock that was set: nodes come back one by one, and each has the share that it had."""
    known = heard_at(10**6, "a", "b", "c")
    group = look(known, Group(generation=0), 10**6)
    for seconds in range(0, away_s, max(1, away_s // 50)):
        assert look(known, group, 10**6 + seconds) == group
    for later, node in enumerate("abc"):
        take(known, node, 10**6 + away_s + later)
        assert look(known, group, 10**6 + away_s + later) == group


def test_it_is_the_same_when_another_service_or_a_new_node_is_heard_first() -> None:
    known = heard_at(10**6, "a", "b")
    group = look(known, Group(generation=0), 10**6)
    board.apply(known, {"b": Row(beat("b", 1), (10**6 + 100) * S, 0, {})}, DEAF_S * S)
    assert look(known, group, 10**6 + 101) == group


def test_one_that_stopped_is_missed_and_stays_so_when_others_pause() -> None:
    known = heard_at(10**6, "a", "b")
    group = look(known, Group(generation=0), 10**6)
    for seconds in range(0, 80, 2):
        take(known, "a", 10**6 + seconds)
    gone = look(known, group, 10**6 + 80)
    assert (gone.generation, [node.alive for node in gone.nodes]) == (2, [True, False])
    take(known, "a", 10**6 + 80 + 2 * DEAF_S)
    assert look(known, gone, 10**6 + 81 + 2 * DEAF_S) == gone


def test_where_nobody_could_hold_a_share_nobody_lets_one_go() -> None:
    known = heard_at(10**6, "a", "b")
    group = look(known, Group(generation=0), 10**6)
    drained = next_group(group, board.heard(known), ("a", "b"), [SPREAD], 10**6 * S, AWAY_S)
    assert drained.generation == 2 and drained.settled == group.settled
