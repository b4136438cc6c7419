"""The summary of the demo, for a person."""

from __future__ import annotations

from typing import Any

from outlap.show import seconds, size


def _rate(count: float, duration: float | None) -> str:
    return f"{size(count / duration)}/s" if duration else "-"


def as_pairs(found: dict[str, Any]) -> list[tuple[str, object]]:
    """Name and value of each line; the last ones say how to look further."""
    source, ingest, publish = found["input"], found["ingest"], found["publish"]
    sync, warm, train, read = found["sync"], found["warm"], found["train"], found["read"]
    name = f"{publish['dataset']}@{publish['tag']}"
    lines: list[tuple[str, object]] = [
        ("input", f"{', '.join(source['drives'])}: {source['files']} files, {size(source['bytes'])}"),
        ("ingested", _ingested(ingest)),
    ]
    if ingest["ingested"]:
        lines.append(
            (
                "cut",
                f"{ingest['frames_4k']} frames 4K and {ingest['frames_720p']} frames 720P, {size(ingest['bytes'])} in "
                f"{ingest['packs']} packs",
            )
        )
    if ingest["quarantined"]:
        lines.append(("quarantined", ", ".join(ingest["quarantined"])))
    new = "" if publish["is_new"] else ", nothing new"
    lines += [
        (
            "published",
            f"{name} = {publish['version'][:16]}: {publish['files']} files, {size(publish['bytes'])} "
            f"({seconds(publish['run_seconds'])}{new})",
        ),
        (
            "synced",
            f"to {sync['idc']}: {sync['packs_copied']} packs copied, {sync['packs_present']} there already, "
            f"{size(sync['bytes_copied'])} in {seconds(sync['seconds'])} ({_rate(sync['bytes_copied'], sync['seconds'])})",
        ),
        (
            "warmed",
            f"{warm['files']} of {warm['files_total']} files on {', '.join(warm['nodes'])}, {size(warm['bytes'])} "
            f"verified in {seconds(warm['seconds'] or 0)}; {size(warm['store_bytes'])} and {warm['store_requests']} requests "
            "from the store",
        ),
        ("trained", _trained(train)),
    ]
    for node in read["nodes"]:
        lines.append(
            (
                f"read on {node['node']}",
                f"{node['files']} files, {size(node['bytes'])} in {seconds(node['seconds'])} "
                f"({_rate(node['bytes'], node['seconds'])}, hashing included), by {node['backend']}; every byte equal",
            )
        )
    lines += [
        ("hit rate", f"{read['hit_rate']:.1%} of the bytes read were resident"),
        ("store bytes", f"{size(found['store_bytes'])} sent to the nodes of {sync['idc']} in all"),
        (
            "wall time",
            f"{seconds(found['seconds'])}, of which {seconds(found['up_seconds'])} starting the stack",
        ),
        (
            "Airflow",
            f"{found['airflow']['page']} (user {found['airflow']['user']}, password in {found['airflow']['passwords']})",
        ),
        ("mounted at", ", ".join(node["target"] for node in read["nodes"])),
        ("kept in", found["home"]),
        ("look further", f"outlap status; outlap show {name}; outlap nodes; outlap residency; ls the mounts"),
        ("your own data", "outlap demo --input FOLDER"),
        ("end it", "outlap down (data stays; --delete-data removes it)"),
    ]
    return lines


def _ingested(ingest: dict[str, Any]) -> str:
    if not ingest["ingested"]:
        return f"nothing new: {ingest['already']} drives were ingested before"
    return (
        f"{ingest['ingested']} drives, {ingest['recordings']} recordings, {seconds(ingest['seconds_of_video'])} of video in "
        f"{seconds(ingest['seconds'])}" + (f"; {ingest['already']} before" if ingest["already"] else "")
    )


def _trained(train: dict[str, Any]) -> str:
    if "frames_per_s" not in train:
        return "done"
    proof = ", digest equal to the manifest's" if train.get("verified") else ""
    return f"one epoch, {train['frames']} frames in random order, {train['frames_per_s']:.0f} frames/s{proof}"
