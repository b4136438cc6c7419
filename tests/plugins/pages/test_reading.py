"""What pages read of lakes, called directly; the lakes are folders. What they read of control services: test_site.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from outlap_airflow.pages import datasets, history, quarantine, synclag
from outlap_airflow.pages.listing import Asking
from outlap_airflow.pages.sources import Memory, Sources

from lake import compare, manifests, refs, stores, sync
from lake.config import load_config
from lake.errors import NotFound, StoreDown
from lake.stores import Store
from tests.plugins.pages import servers, world

ALL = Asking()


class Lakes:
    """a, b: the lakes; known: `dataset@tag` → version id; src: what pages are given."""

    def __init__(self, idcs: Any, base: Path) -> None:
        self.a, self.b = idcs.a, idcs.b
        self.known = world.publish_all(self.a, self.b, base)
        self.src = Sources(load_config(), Memory())


@pytest.fixture
def lakes(idcs: Any, tmp_path: Path, airflow_database: None) -> Lakes:
    return Lakes(idcs, tmp_path)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of all objects that were read, and prefixes that were listed."""
    seen: list[str] = []
    get, listed = stores.get, stores.list_objects
    monkeypatch.setattr(stores, "get", lambda store, key: seen.append(key) or get(store, key))
    monkeypatch.setattr(
        stores, "list_objects", lambda store, prefix: seen.append(prefix) or listed(store, prefix)
    )
    return seen


def until_counted(lakes: Lakes, dataset: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    def counted() -> bool:
        found[:] = datasets.list_versions(lakes.src, dataset, ALL)["rows"]
        return all(row["changes"]["state"] != "counting" for row in found)

    servers.until(counted, "the changes of each version")
    return found


def test_datasets_tell_their_newest_version_and_where_it_is(lakes: Lakes) -> None:
    told = datasets.list_datasets(lakes.src, ALL)
    assert [(row["dataset"], row["tag"], row["versions"]) for row in told["rows"]] == [
        (world.DATASET, "v4", 4),
        (world.SMALL, "v2", 2),
    ]
    frames = told["rows"][0]
    assert frames["version"] == lakes.known[f"{world.DATASET}@v4"]
    assert frames["available"] == {"idc-a": True, "idc-b": False}
    root = manifests.read_root(lakes.a, frames["version"])
    assert (frames["files"], frames["bytes"]) == (root.files, root.bytes)
    largest = datasets.list_datasets(lakes.src, Asking(sort="bytes", descending=True))["rows"]
    assert [row["dataset"] for row in largest] == [world.DATASET, world.SMALL]


def test_versions_tell_what_changed_as_a_diff_of_their_rows_does(lakes: Lakes) -> None:
    rows = until_counted(lakes, world.DATASET)
    assert [(row["tag"], row["tags"]) for row in rows] == [
        ("v4", ["latest"]),
        ("v3", []),
        ("v2", ["prod"]),
        ("v1", []),
    ]
    assert rows[-1]["changes"] == {"state": "first"}
    for row in rows[:-1]:
        sums = {kind: [0, 0] for kind in ("added", "removed", "changed")}
        for step in compare.differences(lakes.a, row["before"], row["version"]):
            for kind in sums:
                table = getattr(step, kind)
                sums[kind][0] += table.num_rows
                sums[kind][1] += sum(table["size"].to_pylist())
        assert {kind: list(row["changes"][kind].values()) for kind in sums} == sums
        assert row["changes"]["added"]["files"] - row["changes"]["removed"]["files"] == row["files_grown"]
    assert (rows[1]["changes"]["added"]["files"], rows[1]["changes"]["removed"]["files"]) == (120, 20)
    assert rows[1]["made_by"] == "DAG publish_dataset"
    assert "CAM_LEFT" in rows[1]["query"]
    assert {row["tag"]: row["available"]["idc-b"] for row in rows} == {
        "v4": False,
        "v3": True,
        "v2": True,
        "v1": True,
    }


def test_a_large_change_is_counted_only_for_who_asks(lakes: Lakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MOST_ROWS_UNASKED", 100)
    row = until_counted(lakes, world.DATASET)[0]
    assert row["changes"]["state"] == "large"
    assert row["changes"]["rows"] == 370 + 465  # both sides, at most
    told = datasets.show_version(lakes.src, world.DATASET, "v4")
    assert told["changes"]["state"] == "large"

    def counted() -> bool:
        return bool(
            datasets.show_version(lakes.src, world.DATASET, "v4", count=True)["changes"]["state"] == "known"
        )

    servers.until(counted, "the change")
    # and now everybody sees it
    assert until_counted(lakes, world.DATASET)[0]["changes"]["added"]["files"] == 95


def test_one_version_by_tag_and_by_prefix(lakes: Lakes) -> None:
    version = lakes.known[f"{world.DATASET}@v2"]
    for asked in ("v2", "prod", version, version[:12]):
        told = datasets.show_version(lakes.src, world.DATASET, asked)
        assert (told["version"], told["tag"], told["before"]["tag"], told["after"]["tag"]) == (
            version,
            "v2",
            "v1",
            "v3",
        )
    assert told["run"] == {"dag": "publish_dataset", "run": "nightly__frames-720p__scheduled__2026-11-05"}
    assert told["holds"]["drives"]["total"] == 4
    assert sum(row["files"] for row in told["holds"]["drives"]["rows"]) == told["holds"]["files"] == 270
    for dataset, asked in ((world.DATASET, "v9"), (world.DATASET, "abcdef"), ("none", "v1")):
        with pytest.raises(NotFound):
            datasets.show_version(lakes.src, dataset, asked)


def test_no_request_reads_a_manifest_and_nothing_is_read_twice(lakes: Lakes, requests: list[str]) -> None:
    until_counted(lakes, world.DATASET)
    datasets.list_datasets(lakes.src, ALL)
    del requests[:]
    lakes.src.memory.asked.forget(("the store of", "idc-a", "versions"))
    lakes.src.memory.asked.forget(("the store of", "idc-a", "available"))
    datasets.list_versions(lakes.src, world.DATASET, ALL)
    datasets.list_datasets(lakes.src, ALL)
    assert sorted(set(requests)) == ["available/", "refs/"]  # lists only: no object changed
    del requests[:]
    made = refs.resolve(lakes.a, world.DATASET, "v1")
    refs.move_ref(lakes.a, refs.Ref(world.DATASET, "prod", made.version, made.at_ns, made.origin))
    del requests[:]
    lakes.src.memory.asked.forget(("the store of", "idc-a", "versions"))
    rows = datasets.list_versions(lakes.src, world.DATASET, ALL)["rows"]
    assert rows[-1]["tags"] == ["prod"]
    assert [key for key in requests if key.endswith(".json")] == [f"refs/{world.DATASET}/prod.json"]


def test_bytes_to_copy_are_those_that_a_sync_would_copy(lakes: Lakes) -> None:
    link = synclag.list_links(lakes.src)["links"][0]
    assert (link["idc"], link["versions"], link["versions_missing"]) == ("idc-b", 6, 2)
    assert link["oldest_ns"] == refs.resolve(lakes.a, world.SMALL, "v2").at_ns
    rows = synclag.list_missing(lakes.src, "idc-b", ALL)["rows"]
    plans = {
        tag: sync.plan(lakes.a, lakes.b, lakes.known[tag]).bytes
        for tag in (f"{world.DATASET}@v4", f"{world.SMALL}@v2")
    }
    found = {f"{row['dataset']}@{row['tag']}": row["bytes_missing"] for row in rows}
    assert found[f"{world.DATASET}@v4"] == plans[f"{world.DATASET}@v4"]
    # night-rain v2's new pack came with frames-720p v2, which the bound does not know
    assert found[f"{world.SMALL}@v2"] > plans[f"{world.SMALL}@v2"] == 0
    assert link["bytes_missing"] == sum(found.values())
    with pytest.raises(NotFound):
        synclag.list_missing(lakes.src, "idc-z", ALL)


def test_a_destination_whose_store_is_away_is_unknown_and_not_level(
    lakes: Lakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: Store) -> list[str]:
        raise StoreDown("the store", "it is away", "wait")

    monkeypatch.setattr("lake.holdings.versions_in", away)
    told = synclag.list_links(lakes.src)
    assert (told["links"][0]["is_known"], told["links"][0]["versions_missing"]) == (False, None)
    assert told["services"][1]["problem"]["why"] == "it is away"
    assert datasets.list_datasets(lakes.src, ALL)["rows"][0]["available"] == {"idc-a": None, "idc-b": None}


def test_refused_drives_by_rule_and_vehicle(lakes: Lakes) -> None:
    world.refuse(lakes.a)
    told = quarantine.list_refused(lakes.src, ALL)
    assert [row["vehicle"] for row in told["rows"]] == ["car-03", "car-03", "car-02", "car-02", "car-01"]
    assert (told["rules"]["cut-off"], told["vehicles"]) == (1, ["car-01", "car-02", "car-03"])
    told = quarantine.list_refused(lakes.src, Asking(search="mp4 sha256"))
    assert [(row["vehicle"], row["drive"]) for row in told["rows"]] == [("car-01", "2026-11-06-rain")]
    told = quarantine.list_refused(lakes.src, ALL, "cut-off", "car-03")
    assert (told["total"], told["rows"][0]["findings_total"], len(told["rows"][0]["first"])) == (1, 4, 3)
    assert quarantine.list_refused(lakes.src, ALL, "cut-off", "car-01")["total"] == 0
    shown = quarantine.show_refused(lakes.src, "car-02", "2026-11-06-night")
    assert [(found["severity"], found["inferred"]) for found in shown["findings"]] == [
        ("error", False),
        ("warning", True),
    ]
    with pytest.raises(NotFound):
        quarantine.show_refused(lakes.src, "car-02", "nosuch")
