"""Heartbeats that hold what changed: how a node makes them, and how control puts them together. Pure functions.

A node sends all of its versions once, then those that changed after the last heartbeat that control answered. Each report is the
whole truth of its version, so one that arrives twice, or on top of a later one of the same session, does no harm. Control takes a
delta only when it has seen at least the heartbeat that the delta builds on, in the same session; else it asks for all.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from cacheengine.wire import Heartbeat, HeartbeatReply, VersionKey, VersionReport

Key = tuple[str, str, str | None]


def key_of(report: VersionReport | VersionKey) -> Key:
    return (report.dataset, report.version, report.list_id)


@dataclass
class Sent:
    """What a node told in this session. answered: the last heartbeat that control took, None: it wants all.

    told: report and the number of the heartbeat that first held it; gone: the number of the one that first left it out.
    """

    session: str = field(default_factory=lambda: secrets.token_hex(8))
    number: int = 0
    answered: int | None = None
    told: dict[Key, tuple[VersionReport, int]] = field(default_factory=dict)
    gone: dict[Key, int] = field(default_factory=dict)


def shortened(sent: Sent, full: Heartbeat) -> Heartbeat:
    """The next heartbeat of a session: `full` without the versions that control knows. Changes `sent`."""
    sent.number += 1
    now = {key_of(report): report for report in full.versions}
    for key, report in now.items():
        sent.gone.pop(key, None)
        if key not in sent.told or sent.told[key][0] != report:
            sent.told[key] = (report, sent.number)
    for key in [key for key in sent.told if key not in now]:
        del sent.told[key]
        sent.gone[key] = sent.number
    since = sent.answered
    changed: Mapping[str, object] = {}
    if since is not None:
        changed = {
            "versions": tuple(report for report, number in sent.told.values() if number > since),
            "gone": tuple(
                VersionKey(dataset=key[0], version=key[1], list_id=key[2])
                for key, number in sent.gone.items()
                if number > since
            ),
        }
    return full.model_copy(update={"session": sent.session, "number": sent.number, "since": since, **changed})


def answered(sent: Sent, heartbeat: Heartbeat, reply: HeartbeatReply) -> None:
    """Note what control said to a heartbeat that `shortened` made."""
    sent.answered = None if reply.full else heartbeat.number
    if not reply.full:
        sent.gone = {key: number for key, number in sent.gone.items() if number > heartbeat.number}


class Joined(NamedTuple):
    """heartbeat: with all versions of the node. changed: keys whose report is another one, or gone."""

    heartbeat: Heartbeat
    changed: frozenset[Key]


def joined(known: Heartbeat | None, heartbeat: Heartbeat) -> Joined | None:
    """What a node holds after this heartbeat; None when it builds on what is not known here.

    `known`: the last one, as this function returned it. An older one of the same session changes nothing.
    """
    before = {} if known is None else {key_of(report): report for report in known.versions}
    same = known is not None and known.session == heartbeat.session
    if known is not None and same and heartbeat.number < known.number:
        return Joined(known, frozenset())
    if heartbeat.since is None:
        after = {key_of(report): report for report in heartbeat.versions}
    elif known is not None and same and heartbeat.since <= known.number:
        after = before | {key_of(report): report for report in heartbeat.versions}
        for key in heartbeat.gone:
            after.pop(key_of(key), None)
    else:
        return None
    changed = frozenset(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    whole = heartbeat.model_copy(update={"versions": tuple(after.values()), "since": None, "gone": ()})
    return Joined(whole, changed)
