"""What calls of the publish API do, in Airflow's own API server. The plugin is loaded as Airflow loads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from lake import catalog

Call = Callable[..., httpx.Response]
PUBLISH, DATASETS = "/outlap/api/v1/publish", "/outlap/api/v1/datasets"
VIEWER, USER = "ann", "ben"


def test_a_publish_is_a_run_and_the_same_request_is_the_same_run(call: Call) -> None:
    first = call("POST", PUBLISH, USER, dataset="front", request_id="one")
    again = call("POST", PUBLISH, USER, dataset="front", request_id="one")
    assert (first.status_code, again.status_code) == (202, 202), first.text
    assert first.json() == again.json()
    assert first.json()["state"] == "queued"
    other = call("POST", PUBLISH, USER, dataset="back", request_id="one")
    assert other.status_code == 409
    assert (other.json()["kind"], other.json()["fix"]) == ("Conflict", "choose another")
    run = call("GET", f"/api/v2/dags/publish_dataset/dagRuns/{first.json()['run_id']}", USER).json()
    assert run["conf"]["dataset"] == "front"
    assert run["triggering_user_name"] == USER
    free = {call("POST", PUBLISH, USER, dataset="front").json()["run_id"] for _ in range(2)}
    assert len(free) == 2


def test_the_header_is_a_key_too(call: Call) -> None:
    key = {"Idempotency-Key": "a key / with any text: (1)"}
    first = call("POST", PUBLISH, USER, headers=key, dataset="front")
    assert first.status_code == 202, first.text
    assert call("POST", PUBLISH, USER, headers=key, dataset="front").json() == first.json()
    assert call("POST", PUBLISH, USER, headers=key, dataset="front", tag="t").status_code == 409
    named = {"Idempotency-Key": "two"}
    assert call("POST", PUBLISH, USER, headers=named, dataset="front").json()["run_id"] == "api__two"
    assert call("POST", PUBLISH, USER, dataset="front", request_id="two").json()["run_id"] == "api__two"
    both = call("POST", PUBLISH, USER, headers=named, dataset="front", request_id="three")
    assert (both.status_code, both.json()["kind"]) == (409, "Conflict")


def test_the_same_request_from_many_at_once_is_one_run(call: Call) -> None:
    def ask(_: int) -> tuple[int, str]:
        answer = call("POST", PUBLISH, USER, dataset="front", request_id="many")
        return answer.status_code, answer.json()["run_id"]

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(8))) == {(202, "api__many")}


@pytest.mark.parametrize(
    "body",
    [
        {"dataset": "Bad/Name"},
        {"dataset": "a..b"},
        {"dataset": "front", "tag": "abcdef12"},
        {"dataset": "front", "query": ""},
        {"dataset": "front", "query": "select '\0'"},
        {"dataset": "front", "request_id": "a/b"},
        {"dataset": "front", "unknown": 1},
        {"dataset": "front", "query": "select 1", "source": {"kind": "prefix", "uri": "lake-a:x"}},
        {"dataset": "front", "source": {"kind": "folder", "path": "/etc"}},
        {"dataset": "front", "source": {"kind": "files"}},
        {"dataset": "front", "source": {"kind": "derive", "of": "front", "resize": "big"}},
        {"dataset": "front", "source": {"kind": "prefix", "uri": "lake-a:x", "identity": "etag"}},
        {"tag": "t"},
    ],
)
def test_a_bad_request_is_refused_before_a_run(call: Call, body: dict[str, Any]) -> None:
    before = call("GET", PUBLISH, VIEWER).json()
    answer = call("POST", PUBLISH, USER, **body)
    assert answer.status_code == 422
    assert set(answer.json()) == {"kind", "what", "why", "fix"}
    assert call("GET", PUBLISH, VIEWER).json() == before


def test_a_query_parameter_that_stands_twice_is_refused(call: Call) -> None:
    assert call("GET", f"{PUBLISH}?dataset=front&limit=5", VIEWER).status_code == 200
    answer = call("GET", f"{PUBLISH}?dataset=front&dataset=side", VIEWER)
    assert answer.status_code == 422
    assert answer.json()["why"] == "a query parameter stands there twice"


@pytest.mark.fault("E4")
@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"query": "selec 1"}, 422, "syntax error"),
        ({"query": "drop table frames"}, 422, "not one SELECT"),
        ({"query": "select 1"}, 422, "reads no frames"),
        ({"query": "select * from secrets"}, 422, "reads secrets"),
        ({"source": {"kind": "query", "sql": "select * from 'x.parquet'"}}, 422, "x.parquet"),
        ({"source": {"kind": "derive", "of": "frnt@v1", "resize": "640x360"}}, 404, "front"),
        ({"source": {"kind": "derive", "of": "front@v99", "resize": "640x360"}}, 404, "v2"),
        ({"source": {"kind": "split", "of": "front", "share": "test"}}, 422, "train, val"),
        ({"source": {"kind": "prefix", "uri": "nowhere:labels/"}}, 404, "nowhere"),
    ],
)
def test_what_can_be_known_is_refused_at_once(
    call: Call, body: dict[str, Any], status: int, told: str
) -> None:
    before = call("GET", PUBLISH, VIEWER).json()
    answer = call("POST", PUBLISH, USER, dataset="front", **body)
    assert answer.status_code == status, answer.text
    assert told in answer.text
    assert call("GET", PUBLISH, VIEWER).json() == before


@pytest.mark.fault("E4")
def test_sql_that_may_be_right_is_not_refused() -> None:
    for query in (
        "with a as (select * from frames) select * from a",
        "select * from Frames f join frames_all g using (path)",
        "select * from frames, range(3)",
        "select * from frames where drive in (select drive from frames)",
    ):
        catalog.check_query(query)


def test_what_is_wrong_is_named_and_its_value_is_not(call: Call) -> None:
    answer = call("POST", PUBLISH, USER, dataset="front", tag={"password": "hunter2"}).json()
    assert "body.tag" in answer["why"]
    assert "hunter2" not in json.dumps(answer)


def test_a_body_that_is_too_large_is_not_read(call: Call) -> None:
    answer = call("POST", PUBLISH, USER, dataset="front", query="x" * (9 << 20))
    assert (answer.status_code, answer.json()["kind"]) == (413, "Refused")


def test_a_paused_dag_is_said_so(call: Call) -> None:
    assert call("PATCH", "/api/v2/dags/publish_dataset", USER, is_paused=True).status_code == 200
    try:
        answer = call("POST", PUBLISH, USER, dataset="front")
        assert (answer.status_code, answer.json()["fix"]) == (409, "unpause it")
    finally:
        call("PATCH", "/api/v2/dags/publish_dataset", USER, is_paused=False)


def test_publishes_are_listed_newest_first(call: Call) -> None:
    ids = [call("POST", PUBLISH, USER, dataset="listed", tag=f"t{at}").json()["run_id"] for at in range(3)]
    listed = call("GET", f"{PUBLISH}?dataset=listed&limit=2", VIEWER).json()["runs"]
    assert [run["run_id"] for run in listed] == [ids[2], ids[1]]


def test_datasets_and_versions_are_listed_in_pages(call: Call, site: Any) -> None:
    (row,) = call("GET", DATASETS, VIEWER).json()["datasets"]
    assert (row["dataset"], row["tag"], row["version"]) == ("front", "latest", site.versions[1])
    assert call("GET", f"{DATASETS}?after=front", VIEWER).json() == {"datasets": [], "next": None}
    first = call("GET", f"{DATASETS}/front/versions?limit=1", VIEWER).json()
    (newest,) = first["versions"]
    assert (newest["version"], newest["tags"]) == (site.versions[1], ["v2", "latest"])
    second = call("GET", f"{DATASETS}/front/versions?limit=1&before={first['next']}", VIEWER).json()
    assert ([row["tags"] for row in second["versions"]], second["next"]) == ([["v1"]], None)


def test_a_version_tells_its_rows_and_what_made_it(call: Call, site: Any) -> None:
    for ref in ("v2", "latest", site.versions[1], site.versions[1][:8]):
        shown = call("GET", f"{DATASETS}/front/versions/{ref}", VIEWER).json()
        assert (shown["version"], shown["files"], shown["drives"]) == (site.versions[1], 12, 2)
    assert shown["origin"]["query"] == "select * from frames"
    assert shown["columns"]["content_id"] == "string"
    assert {idc["idc"]: idc["available"] for idc in shown["idcs"]} == {"idc-a": True, "idc-b": False}
    missing = call("GET", f"{DATASETS}/front/versions/v9", VIEWER)
    assert (missing.status_code, missing.json()["kind"]) == (404, "NotFound")
    assert call("GET", f"{DATASETS}/nosuch/versions", VIEWER).status_code == 404


def test_a_diff_is_lines_and_says_what_it_leaves_out(call: Call, site: Any) -> None:
    answer = call("GET", f"{DATASETS}/front/diff?old=v1&new=v2&limit=4", VIEWER)
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    *lines, summary = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["kind"] for line in lines] == ["added"] * 4
    assert lines[0]["path"].startswith("720p/car1/d2/")
    counts = {name: summary[name] for name in ("kind", "added", "removed", "changed", "left_out")}
    assert counts == {"kind": "summary", "added": 6, "removed": 0, "changed": 0, "left_out": 2}
    assert (summary["old"], summary["new"]) == site.versions
    assert call("GET", f"{DATASETS}/front/diff?old=v1&new=v9", VIEWER).status_code == 404


def test_nothing_there_is_said_in_our_form(call: Call) -> None:
    for path, status in ((f"{PUBLISH}/nosuch", 404), ("/outlap/nosuch", 404), ("/outlap/docs", 404)):
        answer = call("GET", path, VIEWER)
        assert (answer.status_code, set(answer.json())) == (status, {"kind", "what", "why", "fix"})
    wrong = call("DELETE", PUBLISH, USER)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
