"""Pickled lists: what people keep is read; what is hostile is refused by name, and nothing of it runs."""

from __future__ import annotations

import collections
import datetime
import pathlib
import pickle
import pickletools
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lake import imports, listed, pickle_child, pickles, publish, stores, versions
from lake.config import StoreConfig
from lake.errors import NotFound, Refused
from lake.imports import Wanted
from lake.pickles import ListedFile

DOCS = Path(__file__).parents[2] / "docs" / "publish.md"


class Run:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments, state=None):
        self.called = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.called


def glob(module: str, name: str, argument: bytes = b"") -> bytes:
    """A protocol 0 pickle that calls module.name."""
    return f"c{module}\n{name}\n(".encode() + argument + b"tR."


def made_at_run_time(module: str, name: str) -> bytes:
    """STACK_GLOBAL of strings that only exist when str() has made them: no scan can tell the name."""
    parts = [
        b"cbuiltins\nstr\nC" + bytes([len(text)]) + text.encode() + b"\x8c\x06latin1\x86R"
        for text in (module, name)
    ]
    return b"\x80\x04" + b"".join(parts) + b"\x93."


# name, the pickle, what the message must say. docs/publish.md shows each with its whole message (`pytest -k hostile -s` prints them)
HOSTILE: list[tuple[str, bytes, str]] = [
    ("os.system", glob("posix", "system", b"Vtouch HIT\n"), "posix.system"),
    ("eval", glob("builtins", "eval", b"Vopen('HIT','w')\n"), "builtins.eval"),
    ("exec, Python 2 name", glob("__builtin__", "exec", b"Vpass\n"), "__builtin__.exec"),
    ("getattr", glob("builtins", "getattr"), "builtins.getattr"),
    ("subprocess", pickle.dumps(Run(__import__("subprocess").Popen, ["touch", "HIT"])), "subprocess.Popen"),
    (
        "a dotted name",
        b"\x80\x04\x8c\x0bcollections\x8c\x17__builtins__.__import__\x93.",
        "__builtins__.__import__",
    ),
    ("a name in two memos", b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94h\x00h\x01\x93.", "posix.system"),
    ("a name made while it runs", made_at_run_time("posix", "system"), "posix.system"),
    ("import of a module", glob("importlib", "import_module", b"Vos\n"), "importlib.import_module"),
    ("a class instance (INST)", b"(ios\nsystem\n.", "INST"),
    ("a class instance (OBJ)", b"(cos\nsystem\no.", "os.system|OBJ"),
    ("persistent ids", b"\x80\x04K\x01Q.", "persistent"),
    ("persistent ids, text", b"Pabc\n.", "persistent"),
    ("copyreg extensions", b"\x80\x02\x82\x01.", "extensions"),
    ("a DataFrame", b"\x80\x04\x8c\x11pandas.core.frame\x8c\tDataFrame\x93)\x81.", "Parquet"),
    ("a tensor", b"\x80\x04\x8c\x0ctorch._utils\x8c\x12_rebuild_tensor_v2\x93.", "plain lists"),
    ("numpy objects", pickle.dumps(np.array(["a", None], object)), "dtype 'O8'|objects"),
    ("numpy fields", pickle.dumps(np.zeros(2, [("a", "i4")])), "dtype 'V4'"),
    ("numpy.load", glob("numpy", "load", b"Vx\n"), "numpy.load"),
    ("other codecs", glob("_codecs", "encode", b"Va\nVpunycode\n"), "only latin1"),
    (
        "an attribute on a function",
        b"\x80\x04c_codecs\nencode\nN}\x8c\x01xK\x01s\x86b.",
        "attribute of a function",
    ),
    (
        "an attribute on a class",
        b"\x80\x04ccollections\nOrderedDict\nN}\x8c\x01xK\x01s\x86b.",
        "immutable type",
    ),
    ("a memo index of four billion", b"\x80\x02K\x01r\xff\xff\xff\xff.", "MiB of memory"),
    (
        "numpy bytes that do not fit",
        glob("numpy.core.multiarray", "scalar", b"cnumpy\ndtype\n(Vi8\ntRVabc\n"),
        "do not fit",
    ),
    ("a billion laughs", b"", "more than|MiB|died"),
    (
        "a number of a megabyte",
        b"\x80\x04\x8b" + struct.pack("<i", 1 << 20) + b"\x01" * (1 << 20) + b".",
        "a number of",
    ),
    ("a list of 100,000 levels", b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".", "nested deeper"),
    ("bytes after the end", pickle.dumps(["a.jpg"]) + pickle.dumps(["b.jpg"]), "follow after its end"),
    ("cut short", pickle.dumps([f"{n}.jpg" for n in range(100)])[:-20], "no pickle"),
    ("a lie about a length", b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"x.", "no pickle"),
    ("a bad memo", b"\x80\x04h\x09.", "cannot be read"),
    ("an empty stack", b"\x80\x04.", "no pickle|cannot be read"),
    ("text", b"hello, here is my list", "no pickle|OBJ"),
    ("nothing", b"", "no pickle"),
    ("gzip", b"\x1f\x8b\x08\x00rest", "gzip"),
    ("no paths in it", pickle.dumps({"a": 1, "b": [2, 3]}), "names no file"),
    ("a name that is no UTF-8", pickle.dumps(["a\udcff.jpg"]), "not UTF-8"),
    ("a name of a megabyte", pickle.dumps(["a" * (1 << 20)]), "1048576 characters"),
]


def laughs() -> bytes:
    """Lists of lists of lists: small in memory, 10**9 values when walked."""
    value: list[object] = ["a.jpg"]
    for _ in range(40):
        value = [value] * 10
    return pickle.dumps(value)


@pytest.mark.parametrize(("name", "data", "says"), HOSTILE, ids=[row[0] for row in HOSTILE])
def test_hostile_pickles_are_refused_by_name(name, data, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pickles, "MAX_VALUES", 100_000)
    if name == "a billion laughs":
        data, says = laughs(), "more than"
    (tmp_path / "list.pkl").write_bytes(data)
    with pytest.raises(Refused, match=says) as caught:
        list(pickles.read_pickle(tmp_path / "list.pkl"))
    row = f"| {name} | {caught.value.why} |"
    print(row)
    assert row in DOCS.read_text(encoding="utf-8"), "docs/publish.md shows another message"
    assert caught.value.fix and not (tmp_path / "HIT").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list.pkl"]


def test_the_child_refuses_by_itself_what_the_scan_cannot_see(tmp_path, monkeypatch):
    """The scan is the first wall, not the only one: without it the child says the same, and nothing runs."""
    monkeypatch.setattr(pickles, "scan", lambda data, what: None)
    for name, data, _ in HOSTILE:
        if data and name not in ("a billion laughs", "gzip", "bytes after the end", "a number of a megabyte"):
            (tmp_path / "list.pkl").write_bytes(data)
            with pytest.raises(Refused):
                list(pickles.read_pickle(tmp_path / "list.pkl"))
                pytest.fail(f"{name} was read")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list.pkl"]


def test_memory_and_environment_of_the_child(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTLAP_TEST_SECRET", "hush")
    seen = {}
    real = pickles.subprocess.run

    def spy(command, **options):
        seen.update(options)
        return real(command, **options)

    monkeypatch.setattr(pickles.subprocess, "run", spy)
    monkeypatch.setattr(pickles, "MEMORY_AT_LEAST", 64 << 20)
    monkeypatch.setattr(pickles, "MEMORY_TIMES", 1)
    (tmp_path / "big.pkl").write_bytes(pickle.dumps([f"frame-{n}.jpg" for n in range(400_000)]))
    with pytest.raises(Refused, match=r"MiB of memory|died"):
        list(pickles.read_pickle(tmp_path / "big.pkl"))
    assert seen["env"] == {} and seen["cwd"] == "/"


LISTS = {
    "paths": (["a/1.jpg", pathlib.PurePosixPath("a/2.jpg")], [ListedFile("a/1.jpg"), ListedFile("a/2.jpg")]),
    "numpy strings": (np.array(["a/1.jpg", "a/2.jpg"]), [ListedFile("a/1.jpg"), ListedFile("a/2.jpg")]),
    "by channel": (
        {"CAM_FRONT": ["1.jpg"], "CAM_BACK": ("2.jpg",)},
        [ListedFile("1.jpg", "CAM_FRONT"), ListedFile("2.jpg", "CAM_BACK")],
    ),
    "triples": (
        [("x/1.jpg", "CAM", 1_500_000_000_000_000), ("x/2.jpg", "CAM", 1.5e9)],
        [ListedFile("x/1.jpg", "CAM", 15 * 10**17), ListedFile("x/2.jpg", "CAM", 15 * 10**17)],
    ),
    "storage apart": (
        [{"data": "1.jpg", "channel": "CAM", "storage": "s3://b/p"}, {"bucket": "b", "key": "k/2.jpg"}],
        [ListedFile("s3://b/p/1.jpg", "CAM"), ListedFile("s3://b/k/2.jpg")],
    ),
    # the shape of mmdetection3d's info files, v2 and v1
    "mmdet3d": (
        {
            "metainfo": {"dataset": "nuscenes", "version": "v1.0"},
            "data_list": [
                {
                    "token": "t1",
                    "timestamp": 1533151603.547590,
                    "ego2global": [[1.0, 0.0], [0.0, 1.0]],
                    "images": {
                        "CAM_FRONT": {
                            "img_path": "n015__CAM_FRONT__1.jpg",
                            "cam2img": np.eye(3).tolist(),
                            "timestamp": np.float64(1533151603.512404),
                        }
                    },
                    "lidar_points": {"lidar_path": "n015__LIDAR_TOP__1.pcd.bin", "num_pts_feats": 5},
                }
            ],
        },
        [
            ListedFile("n015__CAM_FRONT__1.jpg", "CAM_FRONT", 1533151603512404000, "t1"),
            ListedFile("n015__LIDAR_TOP__1.pcd.bin", "lidar_points", None, "t1"),
        ],
    ),
    "mmdet3d v1": (
        collections.OrderedDict(
            infos=[
                {
                    "token": "t1",
                    "lidar_path": "samples/L/1.bin",
                    "cams": {"CAM_BACK": {"data_path": "samples/C/1.jpg", "timestamp": 1532402927637525}},
                    "gt_boxes": np.zeros((2, 7)),
                    "at": datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC),
                }
            ]
        ),
        [
            ListedFile("samples/L/1.bin", None, None, "t1"),
            ListedFile("samples/C/1.jpg", "CAM_BACK", 1532402927637525000, "t1"),
        ],
    ),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", LISTS)
def test_lists_that_people_keep(name, protocol):
    """In this process: what the child does after it has limited itself."""
    value, expected = LISTS[name]
    data = pickle.dumps(value, protocol)
    pickles.scan(data, name)
    rows = pickle_child.files_of(pickle_child.Unpickler(pickle_child.io.BytesIO(data)).load(), 10**6)
    assert [
        ListedFile(**{("reference" if k == "path" else k): v for k, v in row.items()}) for row in rows
    ] == expected


def test_a_whole_read_through_the_child(tmp_path):
    (tmp_path / "l.pkl").write_bytes(pickle.dumps(LISTS["mmdet3d"][0]))
    assert list(pickles.read_pickle(tmp_path / "l.pkl")) == LISTS["mmdet3d"][1]


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5), inner, max_size=4)
        | st.tuples(inner, inner)
    ),
    max_leaves=20,
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(plain, st.integers(0, 5))
def test_any_plain_value_is_walked_or_refused(value, protocol):
    """Nested plain values in each protocol: walked, or refused by name."""
    data = pickle.dumps(value, protocol)
    try:
        pickles.scan(data, "it")
        list(pickle_child.files_of(pickle_child.Unpickler(pickle_child.io.BytesIO(data)).load(), 10**6))
    except (Refused, pickle_child.Refused):
        pass


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.sampled_from([op.code.encode("latin1") for op in pickletools.opcodes]), max_size=30),
    st.binary(max_size=60),
)
def test_any_opcodes_are_scanned_or_refused(opcodes, noise):
    """Up to 30 opcodes with noise as arguments: scanned, or refused by name."""
    data = b"".join(bytes([*code, *noise[at : at + 1]]) for at, code in enumerate(opcodes)) + noise
    try:
        pickles.scan(data, "it")
    except Refused as error:
        assert error.why


def test_references_are_mapped_to_stores_by_the_longest_prefix():
    bucket = "frames"
    lake = StoreConfig(name="lake", idc="a", url=f"s3://{bucket}")
    maps = [
        *listed.store_mappings({"lake": lake}),
        listed.parse_mapping("./data/=lake:raw/", ["lake"]),
        listed.parse_mapping("./data/nuscenes=lake:nu", ["lake"]),
        listed.parse_mapping("/mnt/old/=/srv/new", []),
    ]
    for reference, expected in {
        f"s3://{bucket}/x/1.jpg": Wanted("x/1.jpg", "lake", "x/1.jpg"),
        "lake:x/1.jpg": Wanted("x/1.jpg", "lake", "x/1.jpg"),
        "./data/a//b/./1.jpg": Wanted("a/b/1.jpg", "lake", "raw/a/b/1.jpg"),
        "./data/nuscenes/samples/1.jpg": Wanted("samples/1.jpg", "lake", "nu/samples/1.jpg"),
        "file:///mnt/old/1.jpg": Wanted("1.jpg", "", "/srv/new/1.jpg"),
        "/elsewhere/1.jpg": None,
        "s3://other/1.jpg": None,
    }.items():
        assert listed.place_of(reference, maps) == expected
    with pytest.raises(Refused, match="plain relative path"):
        listed.place_of("./data/../../etc/passwd", maps)
    with pytest.raises(Refused, match=r"2 of 3 names.*'/a'.*--map"):
        listed.resolve([ListedFile("/a"), ListedFile("/b"), ListedFile("lake:c")], maps)
    with pytest.raises(Refused, match="mapping"):
        listed.parse_mapping("a=b", ["lake"])


def test_a_pickle_becomes_a_version_with_its_channels_and_times(make_folder_store, tmp_path):
    lake, other = make_folder_store(), make_folder_store("other")
    value, expected = LISTS["mmdet3d v1"]
    for item in expected:
        stores.put(other, "nu/" + item.reference, item.reference.encode())
    (tmp_path / "l.pkl").write_bytes(pickle.dumps(value))
    maps = [listed.parse_mapping("samples/=other:nu/samples", ["other"])]
    wanted, said = listed.resolve([*pickles.read_pickle(tmp_path / "l.pkl")] * 2, maps)
    found = imports.listed_items(wanted, lambda _: other)
    assert found.missing == () and sorted(found.duplicates) == ["C/1.jpg", "L/1.bin"]
    items = listed.described(found.items, said)
    made = publish.publish_items(lake, "nu", items, lambda _: other, tmp_path / "s", {})
    (table,) = versions.rows(lake, made.version)
    assert table.select(["path", "channel", "timestamp_ns", "sample_id"]).to_pylist() == [
        {"path": "C/1.jpg", "channel": "CAM_BACK", "timestamp_ns": 1532402927637525000, "sample_id": "t1"},
        {"path": "L/1.bin", "channel": None, "timestamp_ns": None, "sample_id": "t1"},
    ]
    stores.delete(other, "nu/samples/L/1.bin")
    found = imports.listed_items(wanted, lambda _: other)
    with pytest.raises(NotFound, match=r"other:nu/samples/L/1\.bin"):
        listed.check_found(found, False)
    listed.check_found(found, True)


def test_the_child_is_read_by_path_and_needs_nothing_of_ours():
    text = Path(pickle_child.__file__).read_text()
    assert "from lake" not in text and "import lake" not in text
    assert Path(pickle_child.__file__).is_absolute()
