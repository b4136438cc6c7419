from __future__ import annotations

import os
import subprocess
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lake import packs
from lake.errors import Corrupt, Refused

NAME = st.lists(
    st.text(
        st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=60
    ).filter(lambda part: part not in (".", "..") and not part.startswith("__outlap__")),
    min_size=1,
    max_size=4,
).map("/".join)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(NAME, st.binary(max_size=9000), max_size=12))
def test_any_members_come_back_from_an_ordinary_tar(tmp_path_factory, members):
    """Up to 12 members of any legal name: aligned, the same pack twice, and Python's tarfile gives them back."""
    folder = tmp_path_factory.mktemp("pack")
    items = sorted(members.items(), key=lambda item: item[0].encode())
    pack = packs.write_pack(folder / "one.tar", items)
    assert packs.write_pack(folder / "two.tar", items).id == pack.id
    raw = (folder / "one.tar").read_bytes()
    assert len(raw) == pack.size and len(raw) % packs.ALIGN == 0
    for row in pack.members.to_pylist():
        assert row["offset"] % packs.ALIGN == 0
        assert raw[row["offset"] : row["offset"] + row["size"]] == members[row["name"]]
    with tarfile.open(folder / "one.tar") as tar:
        listed = {item.name: tar.extractfile(item).read() for item in tar if item.name != packs.MEMBERS_NAME}
        assert all(item.mtime == 0 and item.mode == 0o444 for item in tar.getmembers())
    assert listed == members
    assert packs.members_of(folder / "one.tar").equals(pack.members)


@given(
    st.lists(st.integers(0, 1 << 40), min_size=1),
    st.text("abc/", min_size=1, max_size=100),
    st.integers(0, 9),
)
def test_the_next_member_is_where_a_plain_name_puts_it_and_never_before(ends, name, more):
    """Ends of up to 1 TiB and names: where the next member begins is known without writing."""
    blocks = [-(-end // packs.BLOCK) * packs.BLOCK for end in ends]
    least = packs.next_offset(np.array(ends)).tolist()
    assert least == [block + len(packs.member_prelude(block, name, 1)) for block in blocks]
    longer = [block + len(packs.member_prelude(block, name + "ü" * 99 * more, 1)) for block in blocks]
    assert all(offset >= first for offset, first in zip(longer, least, strict=True))


@pytest.mark.parametrize("program", ["tar", "bsdtar"])
def test_other_programs_read_a_pack(tmp_path, program):
    items = [("a/1.jpg", b"x" * 5000), ("b/" + "long" * 40, b""), ("c/ü.jpg", b"y" * 4096)]
    packs.write_pack(tmp_path / "p.tar", items)
    locale = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        [program, "xf", "p.tar"], cwd=tmp_path, capture_output=True, text=True, check=True, env=locale
    )
    assert done.stderr == ""
    for name, data in items:
        assert (tmp_path / name).read_bytes() == data


@pytest.mark.parametrize("name", ["", "/a", "a//b", "a/../b", ".", "a\0b", "__outlap__/x"])
def test_names_that_could_lead_elsewhere_are_refused(tmp_path, name):
    with pytest.raises(Refused):
        packs.write_pack(tmp_path / "p.tar", [(name, b"")])
    assert not (tmp_path / "p.tar").exists()


def test_order_is_kept(tmp_path):
    with pytest.raises(Refused, match="ascending"):
        packs.write_pack(tmp_path / "p.tar", [("b", b""), ("a", b"")])


def test_members_are_found_through_a_store(tmp_path, make_folder_store):
    store = make_folder_store()
    pack = packs.write_pack(tmp_path / "p.tar", [(f"{n:05d}", b"%d" % n) for n in range(3000)])
    assert packs.put_pack(store, pack.id, tmp_path / "p.tar")
    assert not packs.put_pack(store, pack.id, tmp_path / "p.tar")
    assert packs.read_members(store, pack.id).equals(pack.members)


def test_no_pack_and_cut_packs_are_corrupt(tmp_path):
    (tmp_path / "x").write_bytes(b"no tar at all" * 1000)
    with pytest.raises(Corrupt, match="list of its members"):
        packs.members_of(tmp_path / "x")
    with pytest.raises(Refused):
        packs.pack_key("../../etc/passwd")
