"""Bad input: each kind is refused by its rule, with evidence, and nothing of the drive is taken."""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from lake import catalog, landing, quarantine, stores
from lake.landing import LandedFile
from outlap.synthetic import START_NS
from tests.transforms.conftest import Place
from transforms import rules
from transforms.cut import choose, cut_channel, open_workshop
from transforms.errors import Unreadable
from transforms.profiles import write_profile
from transforms.recipe import Rate, Recipe
from transforms.recordings.mp4 import open_recording
from transforms.seen import Seen, look

Clips = Callable[..., bytes]


def refused(place: Place, rule: str, file: str, evidence: str, drive: str = "d1") -> None:
    """The drive is in quarantine for this one rule, and nothing else was written."""
    report = place.ingest(drive)
    assert report.outcome == "quarantined"
    errors = [finding for finding in report.findings if finding.severity == "error"]
    assert [(finding.rule, finding.file) for finding in errors] == [(rule, file)]
    assert evidence in errors[0].evidence
    entry = quarantine.read(place.lake, "car", drive)
    assert entry is not None and entry.findings == report.findings
    assert list(place.objects()) == [f"quarantine/car/{drive}.json"]


def damaged(data: bytes) -> bytes:
    """The coded bytes of every frame spoiled, the boxes left whole."""
    start = data.index(b"mdat") + 4
    spoiled = bytearray(data)
    for at in range(start + 40, len(data), 3):
        spoiled[at] ^= 0xA5
    return bytes(spoiled)


def without_moov(data: bytes) -> bytes:
    """The moov box renamed to free, as if it had never been written."""
    return data.replace(b"moov", b"free", 1)


def damaged_frame(data: bytes, folder: Path) -> bytes:
    """The second half of the last key frame spoiled."""
    path = folder / "whole.mp4"
    path.write_bytes(data)
    index = open_recording(path).channels[0].index
    place = int(np.flatnonzero(index.key)[-1])
    start, size = int(index.position[place]), int(index.size[place])
    spoiled = bytes(byte ^ 0x5A for byte in data[start + size // 2 : start + size])
    return data[: start + size // 2] + spoiled + data[start + size :]


def audio_only(folder: Path) -> bytes:
    path = folder / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.rate = 48_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path.read_bytes()


def mpeg4_video(folder: Path) -> bytes:
    path = folder / "old.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(stream.encode())
    return path.read_bytes()


BAD: dict[str, tuple[Callable[[bytes, Path], bytes], str, str]] = {
    "zero bytes": (lambda data, folder: b"", "empty-file", "0 bytes"),
    "text": (lambda data, folder: b"this is a text file\n" * 50, "not-an-mp4", "this is a text"),
    "short text": (lambda data, folder: b"hi", "not-an-mp4", "hi"),
    "playlist": (lambda data, folder: b"#EXTM3U\nfile:///etc/passwd\n", "not-an-mp4", "EXTM3U"),
    "cut before its first frame": (
        lambda data, folder: data[: data.index(b"mdat") + 40],
        "truncated",
        "mdat",
    ),
    "cut in the header": (lambda data, folder: data[:100], "truncated", "the file at byte 100"),
    "no header": (lambda data, folder: without_moov(data), "no-header", "no moov"),
    "no codec parameters": (lambda data, folder: data.replace(b"avcC", b"free"), "unreadable", "FFmpeg"),
    "header of nothing": (
        lambda data, folder: data[: data.index(b"moov") - 4] + b"\0\0\0\x10moov" + b"\0\0\0\x08free",
        "no-video",
        "no video stream",
    ),
    "only sound": (lambda data, folder: audio_only(folder), "no-video", "no video stream"),
    "another codec": (lambda data, folder: mpeg4_video(folder), "no-video", "mpeg4"),
    "all frames damaged": (lambda data, folder: damaged(data), "no-key-frame", "0 are key frames"),
    "a frame damaged": (damaged_frame, "undecodable", "frames 15 to 15"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_recording_is_refused_with_its_whole_drive(place: Place, clip_bytes: Clips, name: str) -> None:
    make, rule, evidence = BAD[name]
    place.upload(
        {"CAM_A.mp4": clip_bytes(), "CAM_B.mp4": make(clip_bytes(), place.folder)}, start_ns=START_NS
    )
    refused(place, rule, "CAM_B.mp4", evidence)


def test_good_drives_of_the_same_batch_go_on(place: Place, clip_bytes: Clips) -> None:
    place.upload({"CAM.mp4": b""}, "bad")
    place.upload({"CAM.mp4": clip_bytes()}, "good")
    outcomes = {drive: place.ingest(drive).outcome for _, drive in landing.find_drives(place.landing)}
    assert outcomes == {"bad": "quarantined", "good": "ingested"}
    assert [cut.drive for cut in catalog.drives_in(place.lake)] == ["good"]


def test_a_checksum_that_is_wrong(place: Place, clip_bytes: Clips) -> None:
    place.upload({"CAM.mp4": clip_bytes()})
    other = bytearray(clip_bytes())
    other[-1] ^= 1
    stores.put(place.landing, "landing/car/d1/CAM.mp4", bytes(other))
    refused(place, "checksum", "CAM.mp4", "SHA-256")


def test_a_size_that_is_wrong(place: Place, clip_bytes: Clips) -> None:
    place.upload({"CAM.mp4": clip_bytes(), "notes.txt": b"four"})
    stores.put(place.landing, "landing/car/d1/notes.txt", b"fives")
    refused(place, "checksum", "notes.txt", "bytes")


def test_a_file_that_was_never_uploaded(place: Place, clip_bytes: Clips) -> None:
    place.upload({"CAM.mp4": clip_bytes(), "LIDAR.bin": b"x"})
    stores.delete(place.landing, "landing/car/d1/LIDAR.bin")
    refused(place, "missing-file", "LIDAR.bin", "no such object")


def test_a_complete_json_that_is_malformed(place: Place, clip_bytes: Clips) -> None:
    place.upload({"CAM.mp4": clip_bytes()})
    stores.put(place.landing, f"landing/car/d1/{landing.COMPLETE}", b"{]")
    refused(place, "bad-upload", "COMPLETE.json", "JSON")


def test_a_drive_without_recordings(place: Place) -> None:
    place.upload({"notes.txt": b"nothing here"})
    refused(place, "no-recordings", "COMPLETE.json", "none of its 1 files")


def test_a_track_that_is_none(place: Place, clip_bytes: Clips) -> None:
    place.upload({"CAM.mp4": clip_bytes(), "GNSS.csv": b"a,b\n1,2\n"})
    refused(place, "bad-track", "GNSS.csv", "timestamp_ns")


def test_no_clock_at_all(place: Place, clip_bytes: Clips) -> None:
    place.upload({"CAM.mp4": clip_bytes(start_ns=None)})
    refused(place, "no-time", "CAM.mp4", "no creation_time")


def test_a_clock_that_was_not_set(place: Place, clip_bytes: Clips) -> None:
    place.upload({"CAM.mp4": clip_bytes()}, start_ns=5)
    refused(place, "no-time", "CAM.mp4", "5 ns")


def test_two_recordings_of_one_channel_at_once(place: Place, clip_bytes: Clips) -> None:
    channels = {"1.mp4": "CAM", "2.mp4": "CAM"}
    place.upload({"1.mp4": clip_bytes(), "2.mp4": clip_bytes(camera=1)}, channels=channels)
    refused(place, "overlap", "2.mp4", "1.mp4")


def test_a_channel_that_cannot_be_a_folder(place: Place, clip_bytes: Clips) -> None:
    place.upload({"CAM.mp4": clip_bytes()})
    key = f"landing/car/d1/{landing.COMPLETE}"
    value = json.loads(stores.get(place.landing, key))
    value["files"][0].update(channel=None, path="my camera.mp4")
    stores.put(place.landing, "landing/car/d1/my camera.mp4", clip_bytes())
    stores.put(place.landing, key, json.dumps(value).encode())
    refused(place, "bad-channel", "my camera.mp4", "my camera")


def test_all_bad_files_are_told_at_once(place: Place, clip_bytes: Clips) -> None:
    files = {
        "A.mp4": b"",
        "B.mp4": damaged_frame(clip_bytes(), place.folder),
        "C.mp4": b"text in here",
        "GNSS.csv": b"?",
    }
    place.upload(files, start_ns=START_NS)
    # B is not decoded once others are refused: what costs time comes last
    found = {(finding.file, finding.rule) for finding in place.ingest().findings}
    assert found == {("A.mp4", "empty-file"), ("C.mp4", "not-an-mp4"), ("GNSS.csv", "bad-track")}


def seen_with(folder: Path, data: bytes, **arrays: Any) -> Seen:
    """A good recording whose index says something else."""
    path = folder / "x.mp4"
    path.write_bytes(data)
    seen = look(LandedFile("x.mp4", len(data), "", None, START_NS), path, None)
    recording = open_recording(path)
    index = recording.channels[0].index
    recording.channels[0].index = dataclasses.replace(
        index, **{k: f(getattr(index, k)) for k, f in arrays.items()}
    )
    return dataclasses.replace(seen, recording=recording)


def rule_ids(seen: Seen) -> list[str]:
    return [finding.rule for finding in rules.judge_file(seen)]


def test_two_frames_at_one_time(tmp_path: Path, clip_bytes: Clips) -> None:
    def double(pts: np.ndarray) -> np.ndarray:
        return np.where(np.arange(len(pts)) == 3, pts[4], pts)

    (finding,) = rules.judge_file(seen_with(tmp_path, clip_bytes(), pts=double))
    assert finding.rule == "times"
    assert "frames 3 and 4" in finding.evidence


def test_times_beyond_any_recording(tmp_path: Path, clip_bytes: Clips) -> None:
    assert rule_ids(seen_with(tmp_path, clip_bytes(), pts=lambda pts: pts + 2**61)) == ["times"]
    assert rule_ids(seen_with(tmp_path, clip_bytes(), pts=lambda pts: pts - 2**61)) == ["times"]


def test_nothing_is_shown(tmp_path: Path, clip_bytes: Clips) -> None:
    assert rule_ids(seen_with(tmp_path, clip_bytes(), shown=np.zeros_like)) == ["no-frames"]


def test_frames_before_the_first_key_frame_are_a_warning(tmp_path: Path, clip_bytes: Clips) -> None:
    def late(key: np.ndarray) -> np.ndarray:
        return key & (np.arange(len(key)) > 2)

    (finding,) = rules.judge_file(seen_with(tmp_path, clip_bytes(), key=late))
    assert (finding.rule, finding.severity) == ("late-key-frame", "warning")
    assert finding.evidence.startswith("5 frames")


def test_frames_that_are_declared_and_not_there_are_a_warning(tmp_path: Path, clip_bytes: Clips) -> None:
    seen = seen_with(tmp_path, clip_bytes())
    assert seen.recording is not None
    seen.recording.channels[0].declared_frames = 99
    (finding,) = rules.judge_file(seen)
    assert (finding.rule, finding.severity, finding.inferred) == ("fewer-frames", "warning", True)
    assert "99 frames, 20" in finding.evidence


def test_evidence_does_not_depend_on_where_it_was_found(tmp_path: Path, clip_bytes: Clips) -> None:
    data = clip_bytes().replace(b"avcC", b"free")
    found = []
    for name in ("one", "two"):
        path = tmp_path / name
        path.write_bytes(data)
        found.append(rules.judge([look(LandedFile("x.mp4", len(data), "", None, START_NS), path, None)]))
    assert found[0] == found[1]
    assert str(tmp_path) not in str(found)


def test_spoiled_tables_never_crash(tmp_path: Path, clip_bytes: Clips) -> None:
    """Bytes of the header overwritten: it is refused by a rule, or cut, or does not decode."""
    data = clip_bytes(frames=12, gop=4, params="threads=1:bframes=2")
    first, last = data.index(b"moov"), data.index(b"mdat")
    recipe = Recipe(cut=Rate(rate_mhz=5000))
    path = tmp_path / "spoiled.mp4"
    outcomes = set()
    for seed in range(150):
        rng = random.Random(seed)
        spoiled = bytearray(data)
        for _ in range(rng.choice((1, 2, 5, 20))):
            spoiled[rng.randrange(first, last)] = rng.choice((0, 255, rng.randrange(256)))
        path.write_bytes(spoiled)
        seen = look(LandedFile("spoiled.mp4", len(data), "", None, START_NS), path, None)
        errors = [finding.rule for finding in rules.judge_file(seen) if finding.severity == "error"]
        outcomes.update(errors)
        if not errors:
            assert seen.recording is not None and seen.index is not None and seen.times_ns is not None
            places = choose(seen.index, seen.times_ns, recipe)
            with open_workshop(tmp_path) as workshop:
                try:
                    cut_channel(
                        workshop, seen.recording.channels[0], places, recipe.outputs, lambda more: None
                    )
                    outcomes.add("cut")
                except Unreadable:
                    outcomes.add("undecodable")
    assert {"cut", "undecodable", "no-video", "unreadable"} <= outcomes


def test_a_good_recording_has_no_findings(tmp_path: Path, clip_bytes: Clips) -> None:
    seen = seen_with(tmp_path, clip_bytes())
    assert rule_ids(seen) == []
    assert seen.index is not None and seen.index.time_base > Fraction(0)


def test_ids_are_unique_and_each_rule_has_its_file() -> None:
    every = [rule.id for rule in (*rules.FILE_RULES, *rules.DRIVE_RULES, *rules.PROFILE_RULES)]
    assert len(set(every)) == len(every)
    files = {path.stem for path in Path(rules.__file__).parent.glob("*.py")} - {
        "__init__",
        "__main__",
        "rule",
    }
    assert {rule_id.replace("-", "_") for rule_id in every} == files


def test_any_cut_of_a_recording_is_refused_or_told(tmp_path: Path, clip_bytes: Clips) -> None:
    data = clip_bytes(frames=3)
    path = tmp_path / "cut.mp4"
    taken = set()
    for length in [1, 7, 8, 9, 27, 28, 31, 32, 40, 500, *range(600, len(data), max(1, len(data) // 40))]:
        path.write_bytes(data[:length])
        seen = look(LandedFile("cut.mp4", length, "", None, START_NS), path, None)
        findings = rules.judge([seen])
        assert rules.has_errors(findings) or "partial" in [finding.rule for finding in findings], length
        if not rules.has_errors(findings):
            assert seen.index is not None
            taken.add(len(seen.index))
    assert taken == {1, 2}


def test_what_is_whole_of_a_cut_recording_is_taken(place: Place, clip_bytes: Clips) -> None:
    whole = clip_bytes(gop=1)
    place.upload({"CAM.mp4": whole[: len(whole) * 2 // 3]}, start_ns=START_NS)
    refused = place.ingest()
    assert refused.outcome == "quarantined"
    assert [finding.rule for finding in refused.findings] == ["partial", "cut-off"]
    write_profile(place.lake, "default", {"partial": True})
    report = place.ingest()
    assert report.outcome == "ingested" and 0 < report.frames < 20
    (finding,) = report.findings
    assert (finding.rule, finding.severity) == ("partial", "warning")
    assert f"in frame {report.frames} of 20, {report.frames} whole frames" in finding.evidence
    assert place.shown("720p") == {"CAM": [(0, number) for number in range(report.frames)]}


def test_ffmpeg_is_not_needed_as_a_program() -> None:
    """Everything goes through the library: no process is started for a recording that strangers wrote."""
    text = "".join(p.read_text() for p in Path(rules.__file__).parents[1].rglob("*.py"))
    assert subprocess.__name__ not in text
