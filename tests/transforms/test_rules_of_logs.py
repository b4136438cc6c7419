"""Each rule of times, geometry, logs and profiles: what brings it out, what it says, and that a good drive does not."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from lake import quarantine
from lake.landing import LandedFile
from lake.quarantine import Finding
from outlap.synthetic import START_NS
from tests.transforms import made
from tests.transforms.conftest import Place
from transforms import rules
from transforms.profiles import Profile, read_profile, write_profile
from transforms.recipe import Rate, Recipe
from transforms.seen import fetched, look_all
from transforms.times import SECOND

COMPRESSED, INFO = "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/CameraInfo"
FIX = "sensor_msgs/msg/NavSatFix"
PICTURE = made.jpeg(0)


def judged(
    folder: Path, files: Mapping[str, bytes], start: int | None = None, profile: Profile | None = None
) -> dict[str, Finding]:
    """Rule → its finding; each rule at most once."""
    drive = []
    for number, (name, data) in enumerate(files.items()):
        path = folder / f"f{number}"
        path.write_bytes(data)
        drive.append(fetched(LandedFile(name, len(data), "", None, None), path))
    found = rules.judge(look_all(drive, start), profile)
    assert len({finding.rule for finding in found}) == len(found), found
    return {finding.rule: finding for finding in found}


def stamped(*offsets_ns: int, late_ns: int = 1000, topic: str = "/cam") -> bytes:
    """A log of pictures with these stamps after START_NS, written STEP_NS apart."""
    payloads = [made.cdr_compressed(START_NS + offset, PICTURE) for offset in offsets_ns]
    return made.mcap([(topic, COMPRESSED, "cdr", payloads)], late_ns=late_ns)


def steps(*, count: int = 30) -> list[int]:
    return [number * made.STEP_NS for number in range(count)]


def only(found: dict[str, Finding], rule: str, evidence: str, severity: str = "warning") -> None:
    assert set(found) == {rule}, found
    assert evidence in found[rule].evidence and found[rule].severity == severity


def test_a_good_log_has_no_findings(tmp_path: Path) -> None:
    assert judged(tmp_path, {"x.mcap": stamped(*steps())}) == {}


def test_gap(tmp_path: Path) -> None:
    offsets = [at + (2 * SECOND if at >= SECOND else 0) for at in steps()]
    found = judged(tmp_path, {"x.mcap": stamped(*offsets, late_ns=-SECOND)})
    assert "2100000000 ns, begins at" in found["gap"].evidence
    assert set(found) <= {"gap", "skew"}


def test_jitter(tmp_path: Path) -> None:
    offsets = [at + (60_000_000 if number % 2 else 0) for number, at in enumerate(steps())]
    found = judged(tmp_path, {"x.mcap": stamped(*offsets)})
    assert found["jitter"].inferred and set(found) == {"jitter"}


def test_stamps_that_go_back(tmp_path: Path) -> None:
    offsets = steps()
    offsets[10], offsets[11] = offsets[11], offsets[10]
    only(
        judged(tmp_path, {"x.mcap": stamped(*offsets)}),
        "times-backwards",
        "1 of 29 stamps go back, the first by 100000000 ns at frame 11",
    )


def test_stamps_that_stand_twice(tmp_path: Path) -> None:
    offsets = steps()
    offsets[10] = offsets[9]
    only(judged(tmp_path, {"x.mcap": stamped(*offsets)}), "repeated-stamps", "1 of 30 frames")


def test_stamps_far_from_the_time_of_writing(tmp_path: Path) -> None:
    only(
        judged(tmp_path, {"x.mcap": stamped(*steps(), late_ns=5 * SECOND)}),
        "skew",
        "written 5000000000 ns after",
    )


def test_zero_stamps_give_way_to_the_time_of_writing(tmp_path: Path) -> None:
    data = stamped(*[-START_NS] * 5)
    only(judged(tmp_path, {"x.mcap": data}), "unset-stamps", "run from 0 to 0 ns: no clock")
    drive = look_all([fetched(LandedFile("x.mcap", len(data), "", None, None), tmp_path / "f0")], None)
    times = drive[0].times_ns
    assert times is not None
    assert times.tolist() == [START_NS + number * made.STEP_NS + 1000 for number in range(5)]


@pytest.mark.parametrize(
    ("factor", "unit"), [(1000, "microseconds"), (10**6, "milliseconds"), (10**9, "seconds")]
)
def test_another_unit(tmp_path: Path, clip_bytes: Callable[..., bytes], factor: int, unit: str) -> None:
    found = judged(tmp_path, {"CAM.mp4": clip_bytes()}, start=START_NS // factor)
    only(found, "wrong-unit", f"in {unit}", "error")


def test_a_channel_that_begins_late_and_one_that_ends_early(tmp_path: Path) -> None:
    late = made.mcap(
        [
            (
                "/late",
                COMPRESSED,
                "cdr",
                [made.cdr_compressed(START_NS + 2 * SECOND + at, PICTURE) for at in steps(count=10)],
            )
        ],
        start=START_NS + 2 * SECOND,
    )
    drive = {"a.mcap": stamped(*steps()), "b.mcap": late}
    only(judged(tmp_path, drive), "late-start", "late begins 2000000000 ns after")


def test_calibrations(tmp_path: Path) -> None:
    def log(*more: tuple[str, bytes], topics: tuple[str, ...] = ("/a/image", "/b/image")) -> bytes:
        pictures = [made.cdr_compressed(at, PICTURE) for at in made.times(3)]
        infos = [(f"{name}/camera_info", INFO, "cdr", [data]) for name, data in more]
        return made.mcap([*((topic, COMPRESSED, "cdr", pictures) for topic in topics), *infos])

    good = made.cdr_info(START_NS, made.WIDTH, made.HEIGHT, 500.0)
    assert judged(tmp_path, {"x.mcap": log(("/a", good), ("/b", good))}) == {}
    assert set(judged(tmp_path, {"x.mcap": log(("/a", good))})) == {"no-calibration"}
    never = made.cdr_info(START_NS, made.WIDTH, made.HEIGHT, 0.0)
    assert set(judged(tmp_path, {"x.mcap": log(("/a", never), topics=("/a/image",))})) == {"uncalibrated"}
    other = made.cdr_info(START_NS, 1920, 1080, 500.0)
    found = judged(tmp_path, {"x.mcap": log(("/a", other), topics=("/a/image",))})
    only(found, "calibration-size", "for 1920x1080, its pictures are 640x360")


def test_pictures_of_several_sizes(tmp_path: Path) -> None:
    small = made.simplejpeg.encode_jpeg(np.zeros((180, 320, 3), np.uint8))
    pictures = [made.cdr_compressed(at, small if n == 2 else PICTURE) for n, at in enumerate(made.times(4))]
    data = made.mcap([("/cam", COMPRESSED, "cdr", pictures)])
    only(judged(tmp_path, {"x.mcap": data}), "size-changes", "1 frames are not 640x360")


def test_messages_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    pictures = made.jpegs(6)
    pictures[2], pictures[4] = pictures[2][: len(pictures[2]) // 2], b"\0\1\0\0"
    data = made.mcap([("/cam", COMPRESSED, "cdr", pictures)])
    found = judged(tmp_path, {"x.mcap": data})
    assert "2 messages of /cam cannot be taken" in found["messages-left-out"].evidence


def test_wrong_counts(tmp_path: Path) -> None:
    from mcap.writer import Writer

    class Miscounting(Writer):
        def finish(self) -> None:
            self._Writer__statistics.message_count += 7
            super().finish()

    real, made.Writer = made.Writer, Miscounting  # type: ignore[misc]
    try:
        data = stamped(*steps(count=5))
    finally:
        made.Writer = real  # type: ignore[misc]
    only(judged(tmp_path, {"x.mcap": data}), "wrong-counts", "12 messages, 5 are there")


def test_video_in_messages_keeps_to_the_format(tmp_path: Path) -> None:
    def log(units: list[bytes]) -> bytes:
        payloads = [
            made.proto_video(at, unit) for at, unit in zip(made.times(len(units)), units, strict=True)
        ]
        return made.mcap([("/cam", "foxglove.CompressedVideo", "protobuf", payloads)])

    assert "b-frames" in judged(tmp_path, {"x.mcap": log(made.video(10, b_frames=2))})
    units = made.video(10, gop=5)
    assert set(judged(tmp_path, {"x.mcap": log(units[2:])})) == {"late-key-frame"}
    second = units[5]
    slice_only = second[second.rindex(b"\0\0\1\x65") - 1 :]
    found = judged(tmp_path, {"x.mcap": log([*units[:5], slice_only, *units[6:]])})
    only(found, "missing-parameter-sets", "1 key frames")
    naked = [units[0][units[0].rindex(b"\0\0\1\x65") - 1 :], *units[1:5]]
    found = judged(tmp_path, {"x.mcap": log(naked)})
    assert found["no-key-frame"].severity == "error"


def test_raw_video_that_begins_without_its_parameter_sets(tmp_path: Path) -> None:
    units = made.video(10, gop=5)
    sidecar = json.dumps({"fps": 10, "start_ns": START_NS}).encode()
    stream = units[0][units[0].rindex(b"\0\0\1\x65") - 1 :] + b"".join(units[1:])
    found = judged(tmp_path, {"CAM.h264": stream, "CAM.json": sidecar})
    assert "5 pictures come before any parameter sets" in found["missing-parameter-sets"].evidence
    lossy = b"".join(units[:2] + units[3:])
    found = judged(tmp_path, {"CAM.h264": lossy, "CAM.json": sidecar})
    only(found, "lost-pictures", "1 pictures are not there")


def test_a_raw_stream_without_any_rate(tmp_path: Path) -> None:
    # the stream that x264 writes says its rate, so the sidecar is needed for the start alone
    stream = b"".join(made.video(6))
    assert set(judged(tmp_path, {"CAM.h264": stream}, start=START_NS)) == set()
    wrong = json.dumps({"timestamps_ns": made.times(4)}).encode()
    found = judged(tmp_path, {"CAM.h264": stream, "CAM.json": wrong})
    only(found, "bad-sidecar", "gives 4 times, it has 6 frames", "error")
    for text, why in [
        (b"[", "no JSON"),
        (b"[]", "no object"),
        (b'{"fps": "x"}', "fps"),
        (b'{"start_ns": 1.5}', "start_ns"),
    ]:
        only(
            judged(tmp_path, {"CAM.h264": stream, "CAM.json": text}, start=START_NS),
            "bad-sidecar",
            why,
            "error",
        )


def test_parts_that_are_missing(tmp_path: Path) -> None:
    one, three = stamped(*steps(count=3)), stamped(*[at + SECOND for at in steps(count=3)])
    found = judged(tmp_path, {"b/d_0.mcap": one, "b/d_2.mcap": three})
    assert found["split-missing"].evidence == "parts 1 of its log are not there"
    listed = (
        b"rosbag2_bagfile_information:\n  relative_file_paths:\n    - d_0.mcap\n    - d_1.mcap\n  duration:\n"
    )
    found = judged(tmp_path, {"b/d_0.mcap": one, "b/metadata.yaml": listed})
    only(found, "split-missing", "it lists d_1.mcap", "error")
    listed = listed.replace(b"    - d_1.mcap\n", b"")
    assert judged(tmp_path, {"b/d_0.mcap": one, "b/metadata.yaml": listed}) == {}


def test_a_position_that_jumps(tmp_path: Path) -> None:
    fixes = [made.cdr_fix(at, 48.0 + (1.0 if n > 2 else 0.0), 11.0) for n, at in enumerate(made.times(6))]
    data = made.mcap([("/cam", COMPRESSED, "cdr", made.jpegs(6)), ("/fix", FIX, "cdr", fixes)])
    only(judged(tmp_path, {"x.mcap": data}), "position-jump", "1 of 5 steps")


def test_positions_that_are_none_are_left_out(tmp_path: Path) -> None:
    fixes = [made.cdr_fix(at, 95.0 if n == 1 else 48.0, 11.0) for n, at in enumerate(made.times(6))]
    data = made.mcap([("/cam", COMPRESSED, "cdr", made.jpegs(6)), ("/fix", FIX, "cdr", fixes)])
    only(judged(tmp_path, {"x.mcap": data}), "messages-left-out", "1 of 6 positions of /fix")


def test_what_a_profile_requires(tmp_path: Path) -> None:
    data = made.mcap(
        [
            ("/cam", COMPRESSED, "cdr", made.jpegs(6)),
            ("/fix", FIX, "cdr", [made.cdr_fix(at, 48.0, 11.0) for at in made.times(6)]),
        ]
    )

    def asked(**parts: object) -> set[str]:
        return set(judged(tmp_path, {"x.mcap": data}, profile=Profile.model_validate(parts)))

    assert asked(channels={"cam": {"width": 640, "height": 360, "min_hz": 9.9}}, positions=True) == set()
    assert asked(region=[47, 5, 55, 16]) == asked(region=[40, 170, 50, 12]) == set()
    assert asked(channels={"cam": {}, "left": {}}) == {"missing-channel"}
    assert asked(channels={"cam": {"width": 1920}}) == {"other-than-profile"}
    assert asked(channels={"cam": {"min_hz": 10.5}}) == {"other-than-profile"}
    assert asked(region=[47, 5, 55, 10]) == {"outside-region"}
    bare = Profile(positions=True)
    assert set(judged(tmp_path, {"x.mcap": stamped(*steps())}, profile=bare)) == {"no-positions"}


def test_a_vehicles_own_profile_comes_before_the_default(place: Place) -> None:
    assert read_profile(place.lake, "car") == Profile()
    write_profile(place.lake, "default", {"positions": True})
    assert read_profile(place.lake, "car").positions
    write_profile(place.lake, "car", {"channels": {"cam": {}}})
    assert not read_profile(place.lake, "car").positions
    place.upload({"x.mcap": stamped(*steps(count=3), topic="/other")})
    assert [finding.rule for finding in place.ingest(recipe=Recipe(cut=Rate(rate_mhz=5000))).findings] == [
        "missing-channel"
    ]
    entry = quarantine.read(place.lake, "car", "d1")
    assert entry is not None and "cam is required; there are other" in entry.findings[0].evidence
