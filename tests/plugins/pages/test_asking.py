"""Questions that are slow, fail, or are asked by many at once."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outlap_airflow.pages.asking import FOREVER, Asked
from outlap_airflow.pages.listing import Asking, cut, matching, ordered

from lake.errors import StoreDown
from tests.plugins.pages.servers import until


def test_a_question_is_asked_once_for_all_who_wait() -> None:
    asked, gate, times = Asked(), threading.Event(), []

    def question() -> str:
        times.append(1)
        gate.wait(10)
        return "told"

    found: list[object] = []
    waiting = [
        threading.Thread(target=lambda: found.append(asked.ask({"q": question}, 60, 10)["q"].value))
        for _ in range(8)
    ]
    for thread in waiting:
        thread.start()
    while not times:
        time.sleep(0.001)
    gate.set()
    for thread in waiting:
        thread.join(10)
    assert found == ["told"] * 8
    assert len(times) == 1
    assert asked.ask({"q": question}, 60, 10)["q"].value == "told"
    assert len(times) == 1


def test_who_is_late_costs_the_limit_once_and_its_older_answer_is_told() -> None:
    asked, gate = Asked(), threading.Event()
    gate.set()
    values = iter(range(10))

    def question() -> int:
        gate.wait(30)
        return next(values)

    assert asked.ask({"slow": question}, 0, 5)["slow"].value == 0
    gate.clear()
    both = asked.ask({"slow": question, "quick": lambda: "here"}, 0, 0.2)
    assert (both["slow"].value, both["slow"].is_late) == (0, True)
    assert both["slow"].problem is not None
    assert both["quick"].value == "here"
    begun = time.monotonic()
    assert asked.ask({"slow": question}, 0, 0.2)["slow"].is_late
    assert time.monotonic() - begun < 0.15  # it was waited for in vain before
    gate.set()


def test_what_failed_is_asked_again_and_not_waited_for() -> None:
    asked, gate = Asked(), threading.Event()
    assert asked.ask({"down": lambda: 1 / 0}, 0, 5)["down"].problem is not None
    begun = time.monotonic()
    both = asked.ask({"down": lambda: gate.wait(30), "up": lambda: "here"}, 0, 5)
    assert time.monotonic() - begun < 2
    assert (both["up"].value, both["down"].problem is not None) == ("here", True)
    gate.set()
    until(lambda: asked.ask({"down": lambda: True}, 60, 5)["down"].problem is None, "the answer")


def test_an_error_is_told_with_the_older_answer_and_asked_again() -> None:
    asked = Asked()
    answers: list[object] = ["old", StoreDown("the store", "it is away", "wait"), KeyError("a secret"), "new"]

    def question() -> object:
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def ask() -> tuple[object, str | None]:
        answer = asked.ask({"q": question}, 0, 5)["q"]
        return answer.value, answer.problem and answer.problem["why"]

    assert ask() == ("old", None)
    assert ask() == ("old", "it is away")
    value, why = ask()
    assert value == "old"
    assert why is not None and "KeyError" in why and "secret" not in why
    assert ask() == ("new", None)


def test_what_cannot_change_is_asked_once_and_the_least_wanted_goes_first() -> None:
    asked = Asked(most=2)
    calls: list[str] = []

    def of(name: str) -> object:
        return asked.ask({name: lambda: calls.append(name) or name}, FOREVER, 5)[name].value

    assert [of("a"), of("b"), of("a"), of("c"), of("a"), of("b")] == ["a", "b", "a", "c", "a", "b"]
    assert calls == ["a", "b", "c", "b"]
    asked.forget("a")
    of("a")
    assert calls[-1] == "a"


@given(st.lists(st.integers()), st.integers(1, 30), st.integers(1, 250))
def test_pages_together_are_the_list(values: list[int], page: int, limit: int) -> None:
    rows = [{"v": value} for value in values]
    first = cut(rows, Asking(limit=limit))
    pages = [cut(rows, Asking(page=at + 1, limit=limit))["rows"] for at in range(first["pages"])]
    assert [row for shown in pages for row in shown] == rows
    shown = cut(rows, Asking(page=page, limit=limit))
    assert shown["page"] == min(page, first["pages"])
    assert len(shown["rows"]) <= min(limit, 200)


@given(st.lists(st.one_of(st.none(), st.integers())), st.booleans())
def test_rows_without_a_value_come_last_either_way(values: list[int | None], down: bool) -> None:
    rows = [{"v": value} for value in values]
    found = [
        row["v"] for row in ordered(rows, Asking(sort="v", descending=down), {"v": lambda row: row["v"]})
    ]
    known = [value for value in values if value is not None]
    assert found == sorted(known, reverse=down) + [None] * (len(values) - len(known))


@pytest.mark.parametrize(("search", "found"), [("", 2), ("CAR", 2), ("car night", 1), ("night x", 0)])
def test_every_word_must_stand_somewhere(search: str, found: int) -> None:
    rows = [{"drive": "night-1", "vehicle": "car-1"}, {"drive": "day-1", "vehicle": "car-2"}]
    assert len(matching(rows, search, ("drive", "vehicle"))) == found
