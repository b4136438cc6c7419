from __future__ import annotations

import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pyarrow as pa
import pytest

from lake import packs, publish, stores, versions
from lake import repack as packing
from lake.errors import Corrupt, Refused
from lake.packs import pack_key
from tests.conftest import wait_until
from tests.lake.frames import cut


def contents(store, version):
    table = pa.concat_tables(versions.rows(store, version))
    return {
        row["path"]: stores.get_range(store, pack_key(row["pack"]), row["offset"], row["size"])
        for row in table.to_pylist()
    }


@pytest.fixture
def thin(make_folder_store, tmp_path):
    """A version that uses a fifth of two packs and all of a third."""
    store = make_folder_store()
    files = {}
    for drive in ("d1", "d2", "d3"):
        files |= cut(store, tmp_path, drive, 20, size=9000)
    sql = "select * from frames where frame_index % 5 = 0 or drive = 'd2'"
    made = publish.publish_query(store, "thin", sql, tmp_path, {})
    wanted = {path: data for path, data in files.items() if "/d2/" in path or int(path[-23:-4]) % 5 == 0}
    return store, made.version, wanted


@pytest.mark.parametrize(("target", "fetch"), [(packs.PACK_TARGET, 64 << 20), (40_000, 10_000)])
def test_a_thin_version_gets_packs_of_its_own(thin, tmp_path: Path, monkeypatch, target, fetch):
    store, version, wanted = thin
    monkeypatch.setattr(packing, "PACK_TARGET", target)
    monkeypatch.setattr(packing, "FETCH_BYTES", fetch)
    before = versions.read_available(store, version)
    assert contents(store, version) == wanted
    sparse = packing.sparse_packs(before)
    assert len(sparse) == 2
    seen: list[tuple[int, int]] = []
    done = packing.repack(store, version, tmp_path / "s", progress=lambda *at: seen.append(at))
    assert seen[-1][0] == seen[-1][1] == sum(use.bytes for use in sparse)
    after = versions.read_available(store, version)
    assert (after.files, after.bytes) == (before.files, before.bytes)
    assert set(done.left) == {use.id for use in sparse} and done.packs_before == 3
    assert {use.id for use in before.packs} - set(done.left) <= {use.id for use in after.packs}
    assert contents(store, version) == wanted
    assert versions.verify(store, version, tmp_path).problems == ()
    assert list((tmp_path / "s").iterdir()) == []
    again = packing.repack(store, version, tmp_path / "s")
    assert again.left == () and versions.read_available(store, version) == after


def test_wrong_bytes_are_not_packed_again(thin, tmp_path):
    store, version, _ = thin
    before = versions.read_available(store, version)
    victim = packing.sparse_packs(before)[0]
    data = bytearray(stores.get(store, pack_key(victim.id)))
    data[4096] ^= 1
    stores.put(store, pack_key(victim.id), bytes(data))
    with pytest.raises(Corrupt, match="content id"):
        packing.repack(store, version, tmp_path / "s")
    assert versions.read_available(store, version) == before
    assert list((tmp_path / "s").iterdir()) == []


def test_pieces_make_the_same_pack(tmp_path):
    data = bytes(range(256)) * 100
    whole = packs.write_pack(tmp_path / "one", [("a", data), ("b", b"")])
    writer = packs.PackWriter(tmp_path / "two")
    writer.add_pieces("a", len(data), (data[start : start + 999] for start in range(0, len(data), 999)))
    writer.add_pieces("b", 0, ())
    assert writer.finish().id == whole.id
    writer = packs.PackWriter(tmp_path / "three")
    with pytest.raises(Corrupt, match="25599 of 25600"):
        writer.add_pieces("a", len(data), [data[1:]])
    with pytest.raises(Refused, match="ascending"):
        writer.add_pieces("a", 0, [])
    writer.abandon()


def test_headers_of_members_beyond_octal():
    for size in (8**11 - 1, 8**11, 3 * 8**11 + 5):
        header = packs.member_prelude(0, "big", size)[-packs.BLOCK :]
        found = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
        assert (found.name, found.size) == ("big", size)


@pytest.mark.slow
def test_a_member_over_eight_gibibytes(tmp_path):
    """Zeros: the file is made sparse, the hashes are of all of it."""
    size, piece = (8 << 30) + 5, bytes(64 << 20)
    writer = packs.PackWriter(tmp_path / "big.tar")
    real = writer._file.write

    def sparse(data):
        return writer._file.seek(len(data), 1) if data is piece else real(data)

    class File:
        write = staticmethod(sparse)

        def __getattr__(self, name):
            return getattr(writer_file, name)

    writer_file = writer._file
    writer._file = File()
    writer.add("a", b"before")
    offset = writer.add_pieces("b", size, [piece] * (size // len(piece)) + [bytes(size % len(piece))])
    writer.add("c", b"after")
    pack = writer.finish()
    assert offset % packs.ALIGN == 0 and packs.members_of(tmp_path / "big.tar").equals(pack.members)
    for program, column in (("tar", 2), ("bsdtar", 4)):
        listed = subprocess.run(
            [program, "tvf", "big.tar"], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert [line.split()[column] for line in listed.stdout.splitlines()][:3] == ["6", str(size), "5"]
    with tarfile.open(tmp_path / "big.tar") as tar:
        assert tar.extractfile("c").read() == b"after" and tar.getmember("b").size == size


UPLOAD = """
import sys
from pathlib import Path
from lake.config import StoreConfig, SecretRef
from lake import stores
bucket, endpoint, path = sys.argv[1:]
keys = {"access_key_id": SecretRef(env="TEST_STORE_KEY_ID"), "secret_access_key": SecretRef(env="TEST_STORE_KEY")}
store = stores.open_store(StoreConfig(name="l", idc="a", url=bucket, endpoint=endpoint, **keys))
print("go", flush=True)
stores.put_file(store, "packs/big", Path(path))
"""


def test_an_upload_that_is_killed_leaves_nothing_visible(store_config, tmp_path):
    config = store_config()
    store = stores.open_store(config)
    big = tmp_path / "big"
    with big.open("wb") as file:
        for number in range(18):
            file.write(bytes([number]) * (4 << 20))
    command = [sys.executable, "-c", UPLOAD, config.url, config.endpoint, str(big)]
    for delay in (0.05, 0.15):
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline() == b"go\n"
        time.sleep(delay)  # the moment of the kill, not a wait for anything
        process.kill()
        process.wait()
        found = stores.head(store, "packs/big")
        assert found is None or found.size == big.stat().st_size
    stores.put_file(store, "packs/big", big)
    wait_until(lambda: stores.head(store, "packs/big") is not None, "the upload")
    assert b"".join(stores.stream(store, "packs/big")) == big.read_bytes()
