"""Have records: nothing but what was marked is resident, whatever happens to the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cacheengine.packs import have
from cacheengine.packs.have import Have

PACK_SIZE = 1 << 30

members = st.dictionaries(
    st.integers(0, 1000).map(lambda n: n * 4096),
    st.tuples(st.integers(0, 300_000), st.integers(0, 2**64 - 1)),
    max_size=40,
)


def record(found: dict[int, tuple[int, int]], epoch: int = 0) -> Have:
    return have.make(list(found), [s for s, _ in found.values()], [h for _, h in found.values()], epoch)


def as_dict(found: Have) -> dict[int, tuple[int, int]]:
    rows = zip(found.offset.tolist(), found.size.tolist(), found.head.tolist(), strict=True)
    return {offset: (size, head) for offset, size, head in rows}


@given(members, st.integers(0, 2**63))
def test_a_record_comes_back_as_it_was(found: dict[int, tuple[int, int]], epoch: int) -> None:
    back = have.decode(have.encode(record(found, epoch), PACK_SIZE), PACK_SIZE)
    assert back is not None
    assert (as_dict(back), back.epoch) == (found, epoch)


@given(members, st.data())
def test_any_changed_byte_means_that_nothing_is_resident(
    found: dict[int, tuple[int, int]], data: st.DataObject
) -> None:
    raw = bytearray(have.encode(record(found), PACK_SIZE))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    assert have.decode(bytes(raw), PACK_SIZE) is None


@given(members, st.integers(0, 2000))
def test_a_record_cut_short_means_that_nothing_is_resident(
    found: dict[int, tuple[int, int]], at: int
) -> None:
    raw = have.encode(record(found), PACK_SIZE)
    assert have.decode(raw[: min(at, len(raw) - 1)], PACK_SIZE) is None


def test_a_record_of_a_pack_of_another_size_is_not_believed() -> None:
    raw = have.encode(record({0: (10, 1)}), PACK_SIZE)
    assert have.decode(raw, PACK_SIZE + 4096) is None
    assert have.decode(raw) is not None


def test_a_member_outside_the_pack_is_not_believed() -> None:
    assert have.decode(have.encode(record({8192: (1, 1)}), 8192), 8192) is None


@given(members, members)
@settings(max_examples=50)
def test_sets_of_members(one: dict[int, tuple[int, int]], other: dict[int, tuple[int, int]]) -> None:
    a, b = record(one, 7), record(other)
    assert as_dict(have.union(a, b)) == {**one, **other}
    assert have.union(a, b).epoch == 7
    assert as_dict(have.common(a, b)) == {k: v for k, v in one.items() if other.get(k) == v}
    assert have.contains(a, b.offset, b.size, b.head).tolist() == [
        one.get(k) == other[k] for k in sorted(other)
    ]


def test_the_same_place_with_another_content_id_is_not_resident() -> None:
    known = record({4096: (100, 11)})
    ask = np.array([4096, 4096, 4096]), np.array([100, 100, 99]), np.array([11, 12, 11], np.uint64)
    assert have.contains(known, *ask).tolist() == [True, False, False]


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "pack.have"
    assert len(have.load(path)) == 0 and have.read_epoch(path) == 0
    have.save(path, record({0: (5, 6)}, 3), PACK_SIZE)
    assert as_dict(have.load(path, PACK_SIZE)) == {0: (5, 6)}
    assert have.read_epoch(path) == 3
    path.write_bytes(b"rubbish")
    assert len(have.load(path, PACK_SIZE)) == 0 and have.read_epoch(path) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["pack.have"]
