"""The quick one of the network's tests: a node cut off, a node killed, readers that do not notice. The others are in test_faults."""

from __future__ import annotations

from pathlib import Path

from benchmarks import groups, namespaces
from tests.cacheengine.network.scene import assert_right, readers, scene, until_whole
from tests.conftest import wait_until


def test_readers_do_not_notice_a_node_that_is_cut_off_or_dies(tmp_path: Path) -> None:
    with scene(tmp_path, 2, files=60) as two, readers(two) as reading:
        host = two.group.nodes["n1"].host
        namespaces.cut(host)
        groups.kill_host(two.group, "n2")
        wait_until(lambda: not any(s.alive for s in groups.states(two.group)), "control to miss them", 30)
        reading.go_on()
        namespaces.heal(two.group.network, host)
        groups.start_agent(two.group, "n2")
        until_whole(two)
        assert_right(reading.seen())
