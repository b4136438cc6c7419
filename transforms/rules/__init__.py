"""Rules: what is wrong with the files of a drive, one rule a module; this is their register.

A rule has an id that stays the same for ever (quarantine entries, metrics and docs name it), a severity, and gives
evidence. Errors refuse the whole drive, warnings go into the report. New rules are added to one of the registers below;
`python -m tests.transforms.proofs > docs/rules.md` writes their tables for the docs, and wants a proof of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lake.quarantine import Finding
from transforms.profiles import Profile
from transforms.rules import (
    b_frames,
    bad_channel,
    bad_crc,
    bad_sidecar,
    bad_track,
    black_frames,
    broken_container,
    calibration_size,
    checksum,
    clock_from_container,
    clock_from_drive,
    clock_from_exif,
    cut_off,
    empty_file,
    fewer_frames,
    frozen_frames,
    gap,
    hidden_frames,
    jitter,
    late_key_frame,
    late_start,
    lost_pictures,
    messages_left_out,
    missing_channel,
    missing_file,
    missing_parameter_sets,
    no_calibration,
    no_frames,
    no_header,
    no_key_frame,
    no_positions,
    no_recordings,
    no_time,
    no_video,
    not_an_mp4,
    other_than_profile,
    outside_region,
    overlap,
    partial,
    position_jump,
    repeated_stamps,
    size_changes,
    skew,
    split_missing,
    times,
    times_backwards,
    truncated,
    uncalibrated,
    undecodable,
    unreadable,
    unset_stamps,
    wrong_counts,
    wrong_unit,
)
from transforms.rules.rule import DriveRule, FileRule, ProfileRule
from transforms.seen import Seen

# In this order: the first error of a file is its cause, and what follows from it is not told.
FILE_RULES: tuple[FileRule, ...] = (
    missing_file.RULE,
    checksum.RULE,
    bad_channel.RULE,
    empty_file.RULE,
    not_an_mp4.RULE,
    truncated.RULE,
    no_header.RULE,
    bad_track.RULE,
    unreadable.RULE,
    bad_crc.RULE,
    broken_container.RULE,
    no_video.RULE,
    no_frames.RULE,
    no_key_frame.RULE,
    times.RULE,
    bad_sidecar.RULE,
    wrong_unit.RULE,
    no_time.RULE,
    undecodable.RULE,
    partial.RULE,
    messages_left_out.RULE,
    wrong_counts.RULE,
    missing_parameter_sets.RULE,
    b_frames.RULE,
    late_key_frame.RULE,
    lost_pictures.RULE,
    fewer_frames.RULE,
    hidden_frames.RULE,
    size_changes.RULE,
    black_frames.RULE,
    frozen_frames.RULE,
    unset_stamps.RULE,
    clock_from_container.RULE,
    clock_from_exif.RULE,
    clock_from_drive.RULE,
    repeated_stamps.RULE,
    times_backwards.RULE,
    gap.RULE,
    jitter.RULE,
    skew.RULE,
    calibration_size.RULE,
    uncalibrated.RULE,
    no_calibration.RULE,
    position_jump.RULE,
)
DRIVE_RULES: tuple[DriveRule, ...] = (no_recordings.RULE, overlap.RULE, split_missing.RULE, late_start.RULE)
PROFILE_RULES: tuple[ProfileRule, ...] = (
    cut_off.RULE,
    missing_channel.RULE,
    other_than_profile.RULE,
    no_positions.RULE,
    outside_region.RULE,
)


def judge_file(seen: Seen) -> Iterator[Finding]:
    """Warnings up to the first error, in the register's order."""
    for rule in FILE_RULES:
        evidence = rule.check(seen)
        if evidence is not None:
            yield Finding(rule.id, rule.severity, seen.file.path, evidence, rule.inferred)
            if rule.severity == "error":
                return


def judge(drive: Sequence[Seen], profile: Profile | None = None) -> tuple[Finding, ...]:
    """All findings, by file and then for the drive; profile: of its vehicle."""
    found = [finding for seen in drive for finding in judge_file(seen)]
    for rule in DRIVE_RULES:
        for file, evidence in rule.check(drive):
            found.append(Finding(rule.id, rule.severity, file, evidence, rule.inferred))
    # what is missing is told of a drive whose files are good: otherwise the file's own error is the cause
    if profile is not None and not has_errors(found):
        for asked in PROFILE_RULES:
            for file, evidence in asked.check(drive, profile):
                found.append(Finding(asked.id, asked.severity, file, evidence, asked.inferred))
    # several channels of one file share what is wrong with the file
    return tuple(dict.fromkeys(found))


def has_errors(findings: Sequence[Finding]) -> bool:
    """Whether the drive is to be refused."""
    return any(finding.severity == "error" for finding in findings)
