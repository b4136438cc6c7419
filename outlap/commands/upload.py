"""`outlap upload`: put drives into the landing, as a vehicle's uploader does."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from outlap import show
from outlap.options import AsJson


def upload(
    path: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", help="A recording, or a folder of recordings: a drive each."),
    ],
    vehicle: Annotated[str, typer.Option("--vehicle", help="The vehicle that recorded them.")],
    drive: Annotated[
        str | None,
        typer.Option(
            "--drive", help="Name of the drive, of one PATH; default: its name and a digest of its content."
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--start",
            metavar="TIME",
            help="When the drive began, as 2026-06-01T08:00:00+00:00; needed where the recordings have no clock of their own.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Upload drives to landing/VEHICLE/DRIVE/ of the landing store, COMPLETE.json last; ingest finds them there.

    Killed at any instant, run it again: files that were sent and have not changed are not sent again. One drive that fails does not
    keep the others back: exit code 3.
    """
    from lake.config import load_config
    from lake.errors import Explained
    from lake.stores import landing_store
    from outlap.scratch import scratch

    if drive is not None and len(path) != 1:
        raise typer.BadParameter("--drive names one drive, so give one PATH")
    start_ns = None if start is None else _nanoseconds(start)
    config = load_config()
    store = landing_store(config)
    reports: list[dict[str, Any]] = []
    with scratch() as folder:
        for one in path:
            try:
                reports.append(_upload(store, config.home, one, vehicle, drive, start_ns, folder))
            except (Explained, OSError) as error:
                found = (
                    error if isinstance(error, Explained) else Explained(f"the upload of {one}", str(error))
                )
                show.error(found)
                reports.append({"path": str(one), "outcome": "failed", "error": str(found)})
    if as_json:
        show.json_line(reports)
    else:
        rows = [
            (r["path"], r["outcome"], r.get("drive"), r.get("sent"), r.get("there_before")) for r in reports
        ]
        show.table(("path", "outcome", "drive", "files sent", "there before"), rows)
        for report in reports:
            if report["outcome"] == "uploaded":
                show.line(f"next: `outlap ingest {report['drive']}`")
    good = sum(report["outcome"] == "uploaded" for report in reports)
    raise typer.Exit(0 if good == len(reports) else 3 if good else 1)


def _nanoseconds(text: str) -> int:
    """Read a time with an offset. Raises BadParameter."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"--start {text!r}: {error}") from error
    if moment.tzinfo is None:
        raise typer.BadParameter(f"--start {text!r} has no offset; write 2026-06-01T08:00:00+00:00")
    return round(moment.timestamp() * 1e6) * 1000


def _upload(
    store: Any, home: Path, path: Path, vehicle: str, name: str | None, start_ns: int | None, folder: Path
) -> dict[str, Any]:
    from lake.canonical import blake3_hex
    from lake.errors import NotFound
    from outlap.recordings import local_drive, upload

    if not path.exists():
        raise NotFound(f"the recording {path}", "there is no such file or folder", "name a path")
    drive = local_drive(path, vehicle, name)
    counts = {True: 0, False: 0}
    where = f"{store.where} {drive.vehicle}/{drive.name}"
    ledger = home / "uploads" / f"{blake3_hex(where.encode())[:32]}.json"
    sent = _read_ledger(ledger)

    def told(file: str, size: int, is_sent: bool) -> None:
        counts[is_sent] += 1
        _write_ledger(ledger, sent)
        show.say(
            f"{drive.vehicle}/{drive.name}: {file}, {show.size(size)}, {'sent' if is_sent else 'there before'}"
        )

    upload(store, drive, folder, start_ns=start_ns, sent=sent, told=told)
    ledger.unlink(missing_ok=True)  # COMPLETE.json is there: nothing is left to go on with
    key = f"{drive.vehicle}/{drive.name}"
    for left in drive.left_out:
        show.say(f"{key}: left out, being no recording: {left}")
    return {
        "path": str(path),
        "outcome": "uploaded",
        "drive": key,
        "sent": counts[True],
        "there_before": counts[False],
        "left_out": list(drive.left_out),
    }


def _read_ledger(path: Path) -> dict[str, str]:
    """What an earlier try sent; nothing where that cannot be read: at worst a file is sent again."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): str(mark) for name, mark in known.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _write_ledger(path: Path, sent: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(sent), encoding="utf-8")
    partial.replace(path)
