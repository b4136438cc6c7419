"""Publishing from what lies in stores, through the function of the operator: only from stores, only from those that are allowed."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from outlap_airflow import publish
from outlap_airflow.sources import parse_source
from PIL import Image

from lake import refs, stores


def made(source: dict[str, Any] | str | None, dataset: str = "made", run: str = "r") -> dict[str, Any]:
    return publish.publish(dataset, publish.source_of(None, source), None, "publish_dataset", run)


def jpeg(width: int) -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").resize((width, 90)).convert("RGB").save(out, "JPEG")
    return out.getvalue()


@pytest.fixture
def objects(idcs: Any) -> Any:
    """Three JPEGs below given/ of lake-a."""
    for at in range(3):
        stores.put(idcs.a, f"given/{at}.jpg", jpeg(160 + at))
    return idcs


def test_a_prefix_a_list_and_a_pickle_of_the_same_objects_are_one_version(objects: Any) -> None:
    prefix = made({"kind": "prefix", "uri": "lake-a:given/"})
    assert (prefix["files"], prefix["missing"], prefix["idc"]) == (3, 0, "idc-a")
    place = made({"kind": "prefix", "uri": "lake-a:given", "in_place": True}, "placed")
    assert place["version"] == prefix["version"]
    names = [f"lake-a:given/{at}.jpg" for at in range(3)]
    mapped = ["lake-a:given/=lake-a:given/"]
    listed = made({"kind": "files", "names": names, "map": mapped}, "listed")
    assert listed["version"] == prefix["version"]
    stores.put(objects.a, "lists/all.txt", "\n".join(names).encode())
    stores.put(objects.a, "lists/all.pkl", pickle.dumps([{"path": name} for name in names]))
    by_uri = made({"kind": "files", "uri": "lake-a:lists/all.txt", "map": mapped}, "by-uri")
    by_pickle = made(json.dumps({"kind": "pkl", "uri": "lake-a:lists/all.pkl", "map": mapped}), "by-pickle")
    assert by_uri["version"] == by_pickle["version"] == prefix["version"]
    origin = refs.resolve(objects.a, "by-pickle").origin
    assert (origin["pkl"], origin["run"]) == ("lake-a:lists/all.pkl", "r")


def test_frames_by_name_and_what_is_missing(idcs: Any, frames: Callable[..., None]) -> None:
    frames(idcs.a, "d1")
    path = f"720p/car1/d1/CAM_FRONT/{0:019d}.jpg"
    assert made({"kind": "files", "names": [path]})["files"] == 1
    with pytest.raises(AirflowFailException, match="not in the catalogue"):
        made({"kind": "files", "names": [path, "720p/nosuch.jpg"]}, run="r2")
    missing = {"kind": "files", "names": ["lake-a:nosuch.jpg"]}
    with pytest.raises(AirflowFailException, match="nosuch"):
        made(missing, run="r3")


def test_derive_and_split_name_their_parent(objects: Any) -> None:
    parent = made({"kind": "prefix", "uri": "lake-a:given/"})
    small = made({"kind": "derive", "of": "made@v1", "resize": "64x36"}, "small")
    assert (small["files"], small["left_out"]) == (3, 0)
    assert small["parents"] == [{"dataset": "made", "version": parent["version"]}]
    shares = {"kind": "split", "of": "made", "by": "path", "shares": "a=1,b=1", "salt": "2"}
    parts = [made({**shares, "share": share}, f"made-{share}") for share in ("a", "b")]
    assert sum(part["files"] for part in parts) == 3
    assert made({**shares, "share": "a"}, "made-a", "again")["version"] == parts[0]["version"]
    with pytest.raises(AirflowFailException, match="the shares are a, b"):
        made({**shares, "share": "c"}, "made-c")


def test_only_stores_and_only_those_that_are_allowed(objects: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for uri in ("/etc", "file:///etc", "nosuch:x", "s3://elsewhere/x", "lake-a:../x"):
        with pytest.raises(AirflowFailException):
            made({"kind": "prefix", "uri": uri})
    etc = {"kind": "files", "names": ["x/passwd"], "map": ["x/=/etc"]}
    with pytest.raises(AirflowFailException, match="only stores may be read"):
        made(etc)
    monkeypatch.setenv("OUTLAP_AIRFLOW_SOURCES", '["lake-a:given/"]')
    assert made({"kind": "prefix", "uri": "lake-a:given"})["files"] == 3
    for bad in (
        {"kind": "prefix", "uri": "lake-a:imp"},
        {"kind": "prefix", "uri": "lake-a:"},
        {"kind": "prefix", "uri": "landing-a:given/"},
        {"kind": "files", "names": ["lake-a:refs/made/v1.json"]},
        {"kind": "files", "names": ["q/0.jpg"], "map": ["q/=lake-a:given/../refs/"]},
        {"kind": "files", "uri": "lake-a:lists/all.txt"},
        {"kind": "pkl", "uri": "lake-a:lists/all.pkl"},
    ):
        with pytest.raises(AirflowFailException):
            made(bad, "stolen")
    assert "stolen" not in refs.list_datasets(objects.a)


def test_a_pickle_that_would_run_code_is_refused(objects: Any) -> None:
    class Bad:
        def __reduce__(self) -> Any:
            return (print, ("ran",))

    stores.put(objects.a, "lists/bad.pkl", pickle.dumps([Bad()]))
    with pytest.raises(AirflowFailException, match="print"):
        made({"kind": "pkl", "uri": "lake-a:lists/bad.pkl"})


def test_a_source_is_one_of_the_shapes() -> None:
    for bad in ({}, {"kind": "folder"}, {"kind": "files"}, {"kind": "query", "sql": ""}, "{", [1]):
        with pytest.raises(Exception, match=r"docs/airflow\.md"):
            parse_source(bad)
