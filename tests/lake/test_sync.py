"""Sync: what it says is so, its tags move forward only, and a link that is away costs time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lake import publish, refs, stores, sync, verified, versions
from lake.errors import Conflict, NotFound, StoreDown
from lake.manifests import location_key, part_key, read_root
from lake.packs import pack_key
from lake.repair import repair
from lake.sync_settings import SyncSettings
from tests.lake.frames import cut
from tests.lake.links import linked

SQL = "select * from frames"


@pytest.fixture(autouse=True)
def no_home(monkeypatch, tmp_path):
    monkeypatch.setenv("OUTLAP_HOME", str(tmp_path / "no-home"))


def publish_file(store, tmp_path, data, dataset="car"):
    folder = tmp_path / f"{store.idc}-{data.decode()}"
    folder.mkdir(exist_ok=True)
    (folder / "x").write_bytes(data)
    return publish.publish_folder(store, dataset, folder, tmp_path / "p", {}).version


@pytest.fixture
def idcs(two_idcs, tmp_path):
    """(a, b, copy(a, b, ref))."""

    def copy(source, target, ref="latest", **settings):
        return sync.sync(source, target, "car", ref, tmp_path / "s", settings=SyncSettings(**settings))

    return (*two_idcs, copy)


@pytest.mark.fault("C1")
def test_an_older_latest_does_not_replace_what_the_other_idc_published(idcs, tmp_path):
    a, b, copy = idcs
    first = publish_file(a, tmp_path, b"1")
    copy(a, b)
    newer = publish_file(b, tmp_path, b"2")
    done = copy(a, b)
    assert refs.resolve(b, "car").version == newer
    assert len(done.kept) == 1 and newer[:12] in done.kept[0] and first[:12] in done.kept[0]
    # once the source has seen it and moved on, its newer one comes
    assert copy(b, a).kept == () and refs.resolve(a, "car").version == newer
    newest = publish_file(a, tmp_path, b"3")
    assert copy(a, b).kept == () and refs.resolve(b, "car").version == newest


@pytest.mark.fault("C1")
def test_numbers_of_both_idcs_that_differ_are_refused_before_a_byte_moves(idcs, tmp_path):
    a, b, copy = idcs
    publish_file(a, tmp_path, b"1")
    copy(a, b)
    theirs, ours = publish_file(b, tmp_path, b"theirs"), publish_file(a, tmp_path, b"ours")
    with pytest.raises(Conflict, match="both IDCs published a v2"):
        copy(a, b)
    assert refs.resolve(b, "car", "v2").version == refs.resolve(b, "car").version == theirs
    assert not versions.is_available(b, ours)


@pytest.mark.fault("C1")
def test_a_roll_back_stays_where_a_person_made_it_until_the_source_moves_on(idcs, tmp_path):
    a, b, copy = idcs
    first = publish_file(a, tmp_path, b"1")
    copy(a, b)
    second = publish_file(a, tmp_path, b"2")
    copy(a, b)
    refs.move_ref(b, replace(refs.resolve(b, "car", "v1"), tag="latest", follows=None))
    assert copy(a, b).kept != () and refs.resolve(b, "car").version == first
    third = publish_file(a, tmp_path, b"3")
    assert copy(a, b).kept == () and refs.resolve(b, "car").version == third
    # one at the source is a move of the source, and is mirrored
    refs.move_ref(a, replace(refs.resolve(a, "car", "v2"), tag="latest"))
    assert copy(a, b).kept == () and refs.resolve(b, "car").version == second


@pytest.mark.fault("C1")
def test_a_slow_sync_does_not_move_back_what_a_quicker_one_brought(idcs, tmp_path, monkeypatch):
    a, b, copy = idcs
    publish_file(a, tmp_path, b"1")
    real, newer = sync._appear, []

    def slow(*args):
        real(*args)
        if not newer:
            newer.append(publish_file(a, tmp_path, b"2"))
            copy(a, b)

    monkeypatch.setattr(sync, "_appear", slow)
    copy(a, b)
    assert refs.resolve(b, "car").version == newer[0]


def test_refs_of_an_older_release_follow_as_before(idcs, tmp_path):
    a, b, copy = idcs
    publish_file(a, tmp_path, b"1")
    copy(a, b)
    for ref in refs.list_refs(b, "car"):
        stores.put(b, refs.ref_key("car", ref.tag), refs.to_json(replace(ref, follows=None)))
    second = publish_file(a, tmp_path, b"2")
    assert copy(a, b).kept == () and refs.resolve(b, "car").version == second


def damaged(store, key):
    data = bytearray(stores.get(store, key))
    data[len(data) // 2] ^= 1
    stores.put(store, key, bytes(data))


@pytest.mark.fault("C5")
def test_what_is_gone_at_the_target_is_copied_again_though_it_says_that_all_is_there(idcs, tmp_path):
    a, b, copy = idcs
    for drive in ("d1", "d2"):
        cut(a, tmp_path, drive)
    made = publish.publish_query(a, "car", SQL, tmp_path, {})
    copy(a, b)
    there = versions.read_available(b, made.version)
    one, two = (pack_key(use.id) for use in there.packs)
    stores.delete(b, one)
    stores.put(b, two, stores.get(b, two)[:-512])
    part = part_key(read_root(b, made.version).parts[0].id)
    stores.delete(b, part)
    stores.delete(b, location_key(there.locations[0]))
    done = copy(a, b)
    assert (done.packs_copied, done.packs_present) == (2, 0)
    assert versions.verify(b, made.version, tmp_path).problems == ()
    # what a young verification vouches for is not asked for, and that is said
    verified.keep_verified(b, "car", made.version)
    stores.delete(b, one)
    done = copy(a, b)
    assert (done.packs_copied, done.packs_present, done.packs_vouched) == (0, 2, 2) and done.vouched_at_ns
    assert copy(a, b, verified_hours=0.0).packs_copied == 1
    # the word of a verification counts only for what it read: not for other packs of the same version
    versions.write_available(b, replace(there, packs=there.packs[::-1]))
    assert sync.plan(a, b, made.version, "car").packs_vouched == 0


@pytest.mark.fault("C5")
@pytest.mark.parametrize("kind", ["root", "available", "part", "locations", "gone", "damaged", "short"])
def test_a_store_is_healed_from_another_that_has_the_bytes(idcs, make_store, tmp_path, kind):
    a, b, copy = idcs
    for drive in ("d1", "d2"):
        cut(a, tmp_path, drive)
    made = publish.publish_query(a, "car", SQL, tmp_path, {})
    copy(a, b)
    there = versions.read_available(b, made.version)
    pack = pack_key(there.packs[0].id)
    key = {
        "root": f"manifests/roots/{made.version}.json",
        "available": versions.available_key(made.version),
        "part": part_key(read_root(b, made.version).parts[0].id),
        "locations": location_key(there.locations[0]),
    }.get(kind, pack)
    if kind in ("gone", "root"):
        stores.delete(b, key)
    elif kind == "short":
        stores.put(b, key, stores.get(b, key)[:-512])
    elif kind == "available":
        stores.put(b, key, b"{")
    else:
        damaged(b, key)
    # a store that has it wrong too, and one that has it not, help nobody
    empty = make_store("empty", "idc-c")
    left = repair(b, made.version, [empty], tmp_path)
    assert left.problems and left.healed == ()
    done = repair(b, made.version, [empty, a], tmp_path)
    assert done.problems == () and done.healed == (f"{key} from idc-a",)
    assert versions.verify(b, made.version, tmp_path).problems == ()
    assert repair(b, made.version, [a], tmp_path).healed == ()


@pytest.fixture
def link(seaweed):
    with linked(seaweed.endpoint) as made:
        yield made


@pytest.fixture
def far(store_config, link):
    """A store of IDC b that is reached over the link."""
    config = store_config("far", "idc-b").model_copy(update={"endpoint": link.endpoint})
    return stores.open_store(config)


@pytest.mark.fault("C6")
@pytest.mark.parametrize("away", ["source", "target"])
def test_a_link_that_is_away_costs_time_and_no_pack(make_store, far, link, tmp_path, monkeypatch, away):
    """It goes away in the middle, and comes back once the sync says that it waits."""
    monkeypatch.setattr(sync, "CHUNK", 64 << 10)
    near = make_store("near", "idc-a")
    source, target = (far, near) if away == "source" else (near, far)
    for number in range(6):
        cut(source, tmp_path, f"d{number}", 10, size=20_000)
    made = publish.publish_query(source, "car", SQL, tmp_path, {})
    lines = []

    def progress(done, total):
        if not lines and done > total / 3:
            link.down()

    def waiting(line):
        lines.append(line)
        link.up()

    done = sync.sync(source, target, "car", "latest", tmp_path / "s", progress, waiting=waiting)
    assert (done.packs_copied, done.dead) == (6, ())
    assert lines and "waiting for the link" in lines[0]
    assert versions.verify(target, made.version, tmp_path).problems == ()


@pytest.mark.fault("C6")
def test_a_link_that_stays_away_ends_the_sync_with_what_remains_and_the_next_goes_on(
    make_store, far, link, tmp_path, monkeypatch
):
    monkeypatch.setattr(sync, "CHUNK", 64 << 10)
    here = make_store("near", "idc-a")
    for number in range(6):
        cut(far, tmp_path, f"d{number}", 10, size=20_000)
    publish.publish_query(far, "car", SQL, tmp_path, {})
    moved = []

    def progress(done, total):
        moved.append(done / total)
        if done > total / 3:
            link.down()

    soon = SyncSettings(link_wait_minutes=1 / 60)
    with pytest.raises(StoreDown, match=r"[1-6] of 6 packs .* remain.* run the same sync again"):
        sync.sync(far, here, "car", "latest", tmp_path / "s", progress, settings=soon)
    assert list(stores.list_objects(here, "sync/")) == [], "no pack is dead because of the link"
    with pytest.raises(NotFound):
        refs.resolve(here, "car")
    link.up()
    again = []
    done = sync.sync(far, here, "car", "latest", tmp_path / "s", lambda some, _: again.append(some))
    assert done.dead == () and done.packs_copied + done.packs_present == 6
    total = sum(use.size for use in versions.read_available(far, done.version).packs)
    assert again[-1] < 0.8 * total, "what had arrived was fetched again"


@pytest.mark.fault("C6")
def test_what_is_wrong_with_a_pack_itself_is_told_at_once(idcs, tmp_path):
    a, b, copy = idcs
    for drive in ("d1", "d2", "d3"):
        cut(a, tmp_path, drive)
    made = publish.publish_query(a, "car", SQL, tmp_path, {})
    short, gone, _ = (pack_key(use.id) for use in versions.read_available(a, made.version).packs)
    stores.put(a, short, stores.get(a, short)[:4096])
    stores.delete(a, gone)
    done = copy(a, b)
    assert done.packs_copied == 1 and len(done.dead) == 2
    assert any("4096 bytes of" in line for line in done.dead)
    assert any("no such object" in line for line in done.dead)


@pytest.mark.fault("C6")
def test_a_partial_file_that_went_bad_is_fetched_anew(idcs, tmp_path):
    a, b, copy = idcs
    cut(a, tmp_path, "d1")
    made = publish.publish_query(a, "car", SQL, tmp_path, {})
    pack = versions.read_available(a, made.version).packs[0]
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / f"{pack.id}.partial").write_bytes(b"\0" * 8192)
    assert copy(a, b).dead == ()
    assert versions.verify(b, made.version, tmp_path).problems == ()
