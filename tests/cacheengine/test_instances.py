"""Several instances of the control service on one PostgreSQL: whoever is asked, nothing is lost and everyone hears."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cacheengine.client import Control
from cacheengine.errors import Unauthorised
from cacheengine.reporting import Sent, answered, shortened
from cacheengine.wire import FreeRequest, PinRequest, SettingRequest, TokenRequest, WarmRequest
from lake.publish import Published
from lake.stores import Store
from tests.cacheengine.played import (
    Serve,
    beat,
    heartbeat,
    lake,
    publish_files,
    published,
    report,
    serve,
    wait_for,
)

__all__ = ["lake", "published", "serve"]


@pytest.fixture
def two(serve: Serve, postgres: Callable[[], str]) -> Iterator[tuple[Control, Control]]:
    """Clients of two instances on one database."""
    url = postgres()
    with serve(database=url).client() as one, serve(database=url).client() as other:
        yield one, other


def test_a_long_poll_hears_of_a_change_by_the_other(
    two: tuple[Control, Control], published: Published
) -> None:
    here, there = two
    generation = beat(here, "b1")
    wait_for(lambda: there.nodes(), "the other to hear of the node")
    heard: list[Any] = []
    thread = threading.Thread(target=lambda: heard.append(there.next_desired("b1", generation, 25)))
    thread.start()
    job = here.warm(WarmRequest(dataset="city"))
    thread.join()
    assert heard[0].versions[0].job == job.id
    ended: list[Any] = []
    thread = threading.Thread(target=lambda: ended.append(here.job(job.id, wait_s=25)))
    thread.start()
    beat(there, "b1", heard[0].generation, report(published, 12))
    thread.join()
    assert ended[0].state == "done"


def test_an_order_sees_the_nodes_that_the_other_heard(
    two: tuple[Control, Control], published: Published
) -> None:
    here, there = two
    beat(here, "b1")
    beat(there, "b2")
    assert [node.node for node in here.warm(WarmRequest(dataset="city")).nodes] == ["b1", "b2"]
    assert [one.node for one in there.pin(PinRequest(dataset="city"))] == ["b1", "b2"]
    here.forget_node("b2")
    wait_for(lambda: [node.node for node in there.nodes()] == ["b1"], "the other to forget it")


def test_changes_at_once_are_all_kept(two: tuple[Control, Control], lake: Store, tmp_path: Path) -> None:
    names = [f"set{n}" for n in range(4)]
    for name in names:
        publish_files(lake, tmp_path, {"a.jpg": name.encode()}, name)
    start = beat(two[0], "b1")
    jobs: list[str] = []

    def order(number: int) -> None:
        # each request goes through both instances at once
        with Control(two[number % 2].url, two[0]._token) as client:
            request = WarmRequest(dataset=names[number // 2 % 4], request_id=f"{number // 2}")
            jobs.append(client.warm(request).id)
            client.change_setting(SettingRequest(key=f"link.a.b{number}", value={"bps": number}))
            beat(client, "b1", number)

    threads = [threading.Thread(target=order, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = two[1].desired("b1")
    assert len(jobs) == 16 and len(set(jobs)) == 8
    assert found.generation == start + 8 and [v.dataset for v in found.versions] == names
    assert {change.key for change in two[1].setting_history()} == {f"link.a.b{n}" for n in range(16)}


def test_a_node_that_changes_the_instance_is_asked_for_all_when_needed(
    two: tuple[Control, Control], published: Published
) -> None:
    sent = Sent()

    def tell(control: Control, done: int) -> bool:
        message = shortened(sent, heartbeat("b1", 1, report(published, done)))
        reply = control.heartbeat(message)
        answered(sent, message, reply)
        return reply.full

    def seen(control: Control) -> list[int]:
        return [v.files_resident for node in control.nodes() for v in node.versions]

    for turn in range(1, 12):
        control = two[turn % 2]
        if tell(control, turn):
            assert not tell(control, turn)
        assert seen(control) == [turn]
    for control in two:
        wait_for(lambda control=control: seen(control) == [11], "both to agree")


def test_a_token_that_one_deleted_is_refused_by_the_other(two: tuple[Control, Control]) -> None:
    made = two[0].create_token(TokenRequest(name="ci", verbs=("read",)))
    with Control(two[1].url, made.token) as known:
        assert known.nodes() == []
        two[0].delete_token("ci")

        def refused() -> bool:
            try:
                known.nodes()
            except Unauthorised:
                return True
            return False

        wait_for(refused, "the other to hear of it")


def test_settings_reach_the_other(two: tuple[Control, Control]) -> None:
    beat(two[0], "b1")
    two[0].change_setting(SettingRequest(key="heartbeat_interval_s", value=7.5))
    wait_for(lambda: two[1].heartbeat(heartbeat("b1")).interval_s == 7.5, "the other to hear of the interval")


def test_a_job_can_be_cancelled_and_freed_through_either(
    two: tuple[Control, Control], published: Published
) -> None:
    here, there = two
    beat(here, "b1")
    job = here.warm(WarmRequest(dataset="city"))
    assert there.cancel(job.id).state == "cancelled" == here.job(job.id).state
    assert [v.paused for v in here.desired("b1").versions] == [True]
    freed = there.free(FreeRequest(dataset="city"))
    beat(here, "b1", here.desired("b1").generation)
    wait_for(lambda: there.job(freed.id).state == "done", "the free")
