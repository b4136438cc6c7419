"""The connection type `outlap`: its form, its test button, and an operator that uses it."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from airflow.sdk.exceptions import AirflowFailException
from outlap_airflow import hooks
from outlap_airflow.operators import Warm

from lake.errors import NotFound, Refused

Call = Callable[..., httpx.Response]
OP = "cleo"


def test_the_form_has_our_fields(call: Call) -> None:
    kinds = {kind["connection_type"]: kind for kind in call("GET", "/ui/connections/hook_meta", OP).json()}
    form = kinds["outlap"]
    assert form["hook_class_name"] == "outlap_airflow.hooks.OutlapHook"
    standard = form["standard_fields"]
    assert standard["host"]["title"] == "Control address"
    assert standard["password"]["title"] == "Token"
    assert standard["login"]["hidden"] and standard["url_schema"]["hidden"]
    assert list(form["extra_fields"]) == ["idc"]


def test_the_test_button_says_what_is_there_or_what_is_wrong(call: Call, group: Any) -> None:
    def press(**changed: Any) -> tuple[bool, str]:
        body = {
            "connection_id": "idc_b",
            "conn_type": "outlap",
            "host": group.url,
            "password": group.token,
            "extra": '{"idc": "idc-b"}',
            **changed,
        }
        answer = call("POST", "/api/v2/connections/test", OP, **body).json()
        return answer["status"], answer["message"]

    assert press() == (True, f"{group.url} answers: 1 nodes, 1 of them alive")
    good, said = press(extra='{"idc": "idc-c"}')
    assert not good and "serves idc-b, not idc-c" in said
    good, said = press(password="wrong")
    assert not good and "wrong" not in said and "Next:" in said
    good, said = press(host="http://127.0.0.1:9")
    assert not good and "does not answer" in said
    assert not press(host="")[0]


def test_an_operator_uses_the_connection_that_it_names(
    node: Any, idcs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {
        "conn_type": "outlap",
        "host": node.url.removeprefix("http://"),
        "password": node.token,
        "extra": {"idc": "idc-b"},
    }
    monkeypatch.setenv("AIRFLOW_CONN_IDC_B", json.dumps(told))
    # the settings name no control service any more: only the connection does
    settings = idcs.home / "outlap.toml"
    settings.write_text("\n".join(x for x in settings.read_text().split("\n") if not x.startswith("control")))
    warm = Warm(task_id="w", dataset="front", outlap_conn_id="idc_b", deferrable=False)
    ti = SimpleNamespace(dag_id="d", run_id="r", task_id="w", map_index=-1, try_number=1)
    assert warm.execute({"ti": ti})["state"] == "done"
    assert warm.shown["idc"] == "idc-b"
    with pytest.raises(AirflowFailException, match="name none"):
        Warm(task_id="w", dataset="front", idc="idc-b").execute({"ti": ti})


def test_what_a_connection_must_say() -> None:
    plain = {
        "conn_id": "c",
        "conn_type": "outlap",
        "schema": "",
        "port": None,
        "password": "",
        "extra_dejson": {},
    }
    found = hooks.reach_of(SimpleNamespace(**plain, host="control.idc-b"))
    assert (found.address, found.token, found.idc) == ("http://control.idc-b", None, "")
    full = {**plain, "schema": "https", "port": 8800, "password": "secret", "extra_dejson": {"idc": "idc-b"}}
    found = hooks.reach_of(SimpleNamespace(**full, host="control.idc-b/"))
    assert (found.address, found.token, found.idc) == ("https://control.idc-b:8800", "secret", "idc-b")
    assert "secret" not in repr(found)
    for bad in ({**plain, "host": ""}, {**plain, "conn_type": "aws", "host": "x"}):
        with pytest.raises(Refused):
            hooks.reach_of(SimpleNamespace(**bad))


def test_without_a_connection_the_settings_say(idcs: Any) -> None:
    assert hooks.reach("idc-b", None).address == "http://127.0.0.1:9"
    with pytest.raises(NotFound, match="outlap_conn_id"):
        hooks.reach("idc-a", None)
