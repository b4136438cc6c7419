"""Rules: what is wrong with the files of a drive, one rule a module; this is their register.

A rule has an id that stays the same for ever (quarantine entries, metrics and docs name it), a severity, and gives
evidence. Errors refuse the whole drive, warnings go into the report. New rules are added to FILE_RULES or DRIVE_RULES.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lake.quarantine import Finding
from transforms.rules import (
    bad_channel,
    bad_track,
    checksum,
    clock_from_container,
    empty_file,
    fewer_frames,
    late_key_frame,
    missing_file,
    no_frames,
    no_header,
    no_key_frame,
    no_recordings,
    no_time,
    no_video,
    not_an_mp4,
    overlap,
    times,
    truncated,
    undecodable,
    unreadable,
)
from transforms.rules.rule import DriveRule, FileRule
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
    no_video.RULE,
    no_frames.RULE,
    no_key_frame.RULE,
    times.RULE,
    no_time.RULE,
    undecodable.RULE,
    late_key_frame.RULE,
    fewer_frames.RULE,
    clock_from_container.RULE,
)
DRIVE_RULES: tuple[DriveRule, ...] = (no_recordings.RULE, overlap.RULE)


def judge_file(seen: Seen) -> Iterator[Finding]:
    """Warnings up to the first error, in the register's order."""
    for rule in FILE_RULES:
        evidence = rule.check(seen)
        if evidence is not None:
            yield Finding(rule.id, rule.severity, seen.file.path, evidence, rule.inferred)
            if rule.severity == "error":
                return


def judge(drive: Sequence[Seen]) -> tuple[Finding, ...]:
    """All findings, by file and then for the drive."""
    found = [finding for seen in drive for finding in judge_file(seen)]
    for rule in DRIVE_RULES:
        found += [Finding(rule.id, rule.severity, file, evidence) for file, evidence in rule.check(drive)]
    return tuple(found)


def has_errors(findings: Sequence[Finding]) -> bool:
    """Whether the drive is to be refused."""
    return any(finding.severity == "error" for finding in findings)
