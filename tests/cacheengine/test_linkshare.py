"""A sync's share of a link: asked for in time, kept to, waited for while it is nothing, and kept while control is away."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from cacheengine.errors import ControlDown
from cacheengine.fetching import linkshare
from cacheengine.wire import LinkBudget, SettingRequest
from lake.config import Config, IdcConfig, SecretRef
from tests.cacheengine.played import Serve, lake, serve

__all__ = ["lake", "serve"]


def budget(share: int | None, valid_s: float = 60.0) -> LinkBudget:
    return LinkBudget(source="a", target="b", bps=share, share_bps=share, valid_s=valid_s)


class Clock:
    """Time that only waiting moves on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.stop = 1000.0, threading.Event()
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        monkeypatch.setattr(self.stop, "wait", self._wait)

    def _wait(self, seconds: float) -> bool:
        self.now += seconds
        return self.stop.is_set()


def test_bytes_go_at_the_rate_of_the_share_that_holds_just_now(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    answers = [budget(100), budget(1000), budget(None)]
    asked: list[float] = []

    def ask() -> LinkBudget:
        asked.append(clock.now)
        return answers[min(len(asked), 3) - 1]

    wait = linkshare.paced(ask, clock.stop)
    for _ in range(4):
        wait(1000)
    # 10 s for each 1000 bytes, the first at once: three waits
    assert 29 <= clock.now - 1000 <= 30 and asked == [1000.0]
    wait(1000)
    assert len(asked) == 2
    before = clock.now
    wait(1000)
    wait(1000)
    assert clock.now - before <= 12  # what was begun at 100 a second, then 1 s
    clock.now += 31
    before = clock.now
    for _ in range(5):
        wait(1 << 40)
    assert clock.now == before and len(asked) == 3


def test_nothing_is_sent_in_an_hour_without_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    wait = linkshare.paced(lambda: budget(0 if clock.now < 4600 else 10**9), clock.stop)
    wait(5)
    assert 4600 <= clock.now <= 4602


def test_what_control_said_last_holds_while_it_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, answers = Clock(monkeypatch), [budget(100)]

    def ask() -> LinkBudget:
        if not answers:
            raise ControlDown("control", "it is away", "wait")
        return answers.pop()

    wait = linkshare.paced(ask, clock.stop)
    wait(1)
    clock.now += 120
    before = clock.now
    wait(1000)
    wait(1000)
    assert clock.now - before > 9
    wait = linkshare.paced(ask, clock.stop)  # never heard of: nothing to keep to
    before = clock.now
    wait(1 << 40)
    wait(1 << 40)
    assert clock.now == before


def config(tmp_path: Path, control: str | None = None, token: Path | None = None) -> Config:
    secret = SecretRef(file=token) if token else None
    return Config(tmp_path, "a", {}, {"a": IdcConfig(name="a", store="lake", control=control, token=secret)})


def test_an_idc_without_control_has_no_budget(tmp_path: Path) -> None:
    linkshare.of_sync(config(tmp_path), "a", "b", "s")(1 << 40)


def test_a_sync_asks_the_control_service_of_its_source(tmp_path: Path, serve: Serve) -> None:
    served = serve()
    with served.client() as control:
        control.change_setting(SettingRequest(key="link.a.b", value={"bps": 1 << 40}))
        (tmp_path / "token").write_text(served.token)
        linkshare.of_sync(config(tmp_path, served.url, tmp_path / "token"), "a", "b", "one")(1)
        assert control.link_budget("a", "b", "two").syncs == 2
