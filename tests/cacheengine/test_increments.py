"""What a node lacks of a version when it holds others: never less than that, and what changed alone where few rows did."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from cacheengine.client import Control
from cacheengine.control import increments
from cacheengine.wire import WarmRequest
from lake.packs import put_pack, write_pack
from lake.publish import Published, publish_rows
from lake.stores import Store
from tests.cacheengine.played import beat, control, lake, report, serve

__all__ = ["control", "lake", "serve"]


class Library:
    """Packed files of which versions are chosen. rows: path, offset, size, content_id, pack; ascending by path."""

    def __init__(self, store: Store, scratch: Path) -> None:
        self.store, self.scratch, self.rows = store, scratch, pa.table({})

    def add(self, prefix: str, count: int) -> None:
        group = [(f"{prefix}/{n:05}.jpg", f"{prefix}{n}".encode() * 9) for n in range(count)]
        pack = write_pack(self.scratch / "pack.tar", group)
        put_pack(self.store, pack.id, self.scratch / "pack.tar")
        rows = pack.members.rename_columns(["path", "offset", "size", "content_id"])
        rows = rows.append_column("pack", pa.array([pack.id] * rows.num_rows, pa.string()))
        self.rows = pa.concat_tables([self.rows, rows]) if self.rows.num_rows else rows

    def publish(self, chosen: list[int]) -> Published:
        rows = self.rows.take(sorted(chosen)).sort_by("path")
        return publish_rows(self.store, "city", iter([rows]), rows.schema, {})

    def lacking(self, chosen: list[int], *held: list[int]) -> tuple[int, int]:
        rest = sorted(set(chosen) - {place for one in held for place in one})
        return len(rest), sum(self.rows["size"].take(rest).to_pylist())


@pytest.fixture
def library(lake: Store, tmp_path: Path) -> Library:
    made = Library(lake, tmp_path)
    for prefix in ("a", "b", "c"):
        made.add(prefix, 60)
    return made


@pytest.mark.parametrize("seed", range(6))
def test_exactly_the_members_that_no_held_version_has(library: Library, seed: int) -> None:
    source = random.Random(seed)
    everything = range(library.rows.num_rows)
    versions = [source.sample(everything, source.randint(1, 150)) for _ in range(3)]
    made = [library.publish(one) for one in versions]
    found = increments.missing(library.store, made[2].version, None, [made[0].version, made[1].version])
    assert found == library.lacking(versions[2], versions[0], versions[1])
    assert increments.missing(library.store, made[2].version, None, [made[2].version]) == (0, 0)
    assert increments.missing(library.store, made[2].version, None, ["e" * 64]) == library.lacking(
        versions[2]
    )
    some = source.sample(versions[2], min(20, len(versions[2])))
    paths = library.rows["path"].take(some).to_pylist()
    found = increments.missing(library.store, made[2].version, paths, [made[0].version])
    assert found == library.lacking(some, versions[0])


def test_too_many_rows_are_compared_by_pack(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    old = library.publish(list(range(120)))
    new_rows = [*range(5, 120), *range(120, 130)]
    new = library.publish(new_rows)
    monkeypatch.setattr(increments, "MOST_ROWS", 0)
    assert increments.missing(library.store, new.version, None, [old.version]) == library.lacking(
        new_rows, list(range(120))
    )


def test_parts_that_versions_share_are_not_opened(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    library.add("z", 30_000)
    place = library.rows.num_rows
    old = library.publish(list(range(place)))
    library.add("zz", 100)
    new = library.publish(list(range(library.rows.num_rows)))
    opened: list[int] = []
    plain: Callable[..., pa.Table] = increments.part_rows

    def counted(*arguments: object) -> pa.Table:
        table = plain(*arguments)
        opened.append(table.num_rows)
        return table

    monkeypatch.setattr(increments, "part_rows", counted)
    found = increments.missing(library.store, new.version, None, [old.version])
    assert found.files == 100 and 0 < sum(opened) < 30_000


def test_an_estimate_of_a_changed_version_is_of_what_changed(control: Control, library: Library) -> None:
    old = library.publish(list(range(170)))
    new = library.publish(list(range(172)))
    beat(control, "b1", 0, report(old, 170))
    beat(control, "b2", fetch_bps=None)
    found = {node.node: node for node in control.estimate(WarmRequest(dataset="city", ref=new.tag)).nodes}
    assert found["b1"].files_missing == 2 and found["b2"].files_missing == 172
    assert found["b1"].bytes_missing == library.lacking([170, 171])[1]
    # b2 measured nothing, and is taken to be as fast as b1
    assert found["b2"].seconds == new.bytes / 1e6
    capped = control.estimate(WarmRequest(dataset="city", ref=new.tag, bandwidth_bps=1000))
    assert {node.seconds for node in capped.nodes} == {
        found["b1"].bytes_missing / 1000,
        new.bytes / 1000,
    }
