"""outlap derive: right pictures, the rest as it was; killed and run again it goes on; a grown parent costs what it gained."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys

import pyarrow as pa
import pytest
from PIL import Image

from lake import publish, refs, stores, versions
from lake.errors import Refused
from lake.packs import pack_key
from transforms import derive

SIZE = derive.parse_size("64x36")


def jpeg(n: int, width: int = 160, height: int = 90) -> bytes:
    image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    image.putpixel((n % width, 0), (255, 0, 0))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80 + n % 10)
    return out.getvalue()


def fill(folder, drives, count=4):
    for drive in drives:
        (folder / drive).mkdir(parents=True, exist_ok=True)
        for n in range(count):
            (folder / drive / f"{n}.jpg").write_bytes(jpeg(n))
        (folder / drive / "pose.json").write_text(f'{{"drive": "{drive}"}}')


@pytest.fixture
def small_packs(monkeypatch):
    """Each drive in a pack of its own: 4 pictures."""
    monkeypatch.setattr("lake.imports.PACK_TARGET", 20_000)


def contents(store, version):
    table = pa.concat_tables(versions.rows(store, version))
    return {
        row["path"]: (row, stores.get_range(store, pack_key(row["pack"]), row["offset"], row["size"]))
        for row in table.to_pylist()
    }


def test_pictures_are_resized_and_all_else_is_carried_over(make_folder_store, tmp_path):
    store = make_folder_store()
    fill(tmp_path / "f", ["d1"])
    parent = publish.publish_folder(store, "p", tmp_path / "f", tmp_path / "s", {})
    ref = refs.resolve(store, "p", parent.tag)
    done = derive.derive(store, ref, "small", SIZE, tmp_path / "s", {"by": "test"})
    assert (done.made, done.reused, done.carried, done.bad) == (4, 0, 1, ())
    found = contents(store, done.published.version)
    for path, (row, data) in found.items():
        if path.endswith(".json"):
            assert data == (tmp_path / "f" / path).read_bytes()
            continue
        assert Image.open(io.BytesIO(data)).size == (64, 36) == (row["width"], row["height"])
        assert len(row["recipe"]) == 64
    assert len(found) == 5 and versions.verify(store, done.published.version, tmp_path).problems == ()
    origin = refs.resolve(store, "small").origin
    assert (origin["derived_from"], origin["parent"], origin["resize"]) == ("p@v1", parent.version, "64x36")
    again = derive.derive(store, ref, "small", SIZE, tmp_path / "s", {})
    assert (again.made, again.reused, again.published.is_new) == (0, 4, False)
    assert again.published.version == done.published.version and not list((tmp_path / "s").iterdir())
    # a pack that was collected as garbage is made again
    (pack,) = set(pa.concat_tables(versions.rows(store, again.published.version))["pack"].to_pylist()) - {
        use.id for use in versions.read_available(store, parent.version).packs
    }
    stores.delete(store, pack_key(pack))
    assert derive.derive(store, ref, "small", SIZE, tmp_path / "s", {}).made == 4
    assert versions.verify(store, done.published.version, tmp_path).problems == ()
    other = derive.derive(store, ref, "small", derive.parse_size("64x36", 50), tmp_path / "s", {})
    assert other.made == 4 and other.published.version != done.published.version


def test_a_parent_that_gained_frames_costs_what_it_gained(make_folder_store, tmp_path, small_packs):
    store = make_folder_store()
    fill(tmp_path / "f", ["d1", "d2"])
    publish.publish_folder(store, "p", tmp_path / "f", tmp_path / "s", {})
    first = derive.derive(store, refs.resolve(store, "p"), "small", SIZE, tmp_path / "s", {})
    assert first.made == 8
    fill(tmp_path / "f", ["d3"])
    publish.publish_folder(store, "p", tmp_path / "f", tmp_path / "s", {})
    second = derive.derive(store, refs.resolve(store, "p"), "small", SIZE, tmp_path / "s", {})
    assert second.made + second.reused == 12 and second.made <= 8 and second.reused >= 4
    before, after = contents(store, first.published.version), contents(store, second.published.version)
    assert {path: data for path, (_, data) in after.items() if not path.startswith("d3")} == {
        path: data for path, (_, data) in before.items()
    }


def test_a_picture_that_does_not_decode_is_named(make_folder_store, tmp_path):
    store = make_folder_store()
    fill(tmp_path / "f", ["d1"])
    (tmp_path / "f" / "d1" / "9.jpg").write_bytes(b"no picture")
    publish.publish_folder(store, "p", tmp_path / "f", tmp_path / "s", {})
    ref = refs.resolve(store, "p")
    with pytest.raises(Refused, match=r"d1/9\.jpg"):
        derive.derive(store, ref, "small", SIZE, tmp_path / "s", {})
    assert "small" not in refs.list_datasets(store)
    done = derive.derive(store, ref, "small", SIZE, tmp_path / "s", {}, skip_bad=True)
    assert (done.made, done.reused, len(done.bad), done.published.files) == (0, 4, 1, 5)


@pytest.mark.parametrize("text", ["1280", "0x720", "1280x720x3", "12ax7", "-1x5", "100000x1"])
def test_sizes_that_cannot_be(text):
    with pytest.raises(Refused):
        derive.parse_size(text)


KILLED = """
import os, signal, sys
from pathlib import Path
from lake import refs, stores
from lake.config import StoreConfig
from transforms import derive
store = stores.open_store(StoreConfig(name="lake", idc="idc-a", url=sys.argv[1]))
def progress(what, done, total):
    if done >= total / 2:
        os.kill(os.getpid(), signal.SIGKILL)
derive.derive(store, refs.resolve(store, "p"), "small", derive.parse_size("64x36"), Path(sys.argv[2]), {}, progress=progress)
"""


def test_a_killed_derivation_goes_on_and_gives_the_same(make_folder_store, tmp_path, small_packs):
    store = make_folder_store()
    fill(tmp_path / "f", ["d1", "d2", "d3", "d4"])
    publish.publish_folder(store, "p", tmp_path / "f", tmp_path / "s", {})
    done = subprocess.run(
        [sys.executable, "-c", KILLED, store.where, str(tmp_path / "k")], env=os.environ, check=False
    )
    assert done.returncode == -signal.SIGKILL and "small" not in refs.list_datasets(store)
    made = derive.derive(store, refs.resolve(store, "p"), "small", SIZE, tmp_path / "s", {})
    assert made.reused >= 4 and made.made + made.reused == 16
    other = make_folder_store("other")
    publish.publish_folder(other, "p", tmp_path / "f", tmp_path / "s", {})
    whole = derive.derive(other, refs.resolve(other, "p"), "small", SIZE, tmp_path / "s", {})
    assert whole.published.version == made.published.version
