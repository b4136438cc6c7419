"""The `outlap` command.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 partly done. An error that explains itself is shown as what, why and
next; anything else is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer
from typer import Abort
from typer._click.exceptions import ClickException

from lake.errors import Explained
from outlap import show
from outlap.commands import (
    bench,
    config,
    delete,
    delete_drive,
    demo,
    derive,
    diff,
    doctor,
    down,
    export,
    free,
    gc,
    history,
    ingest,
    jobs,
    lineage,
    mount,
    nodes,
    pin,
    profile,
    publish,
    quarantine,
    recipes,
    repack,
    residency,
    retention,
    simulate,
    split,
    status,
    sync,
    top,
    trace,
    up,
    upload,
    verify,
    warm,
)
from outlap.commands import show as show_command
from outlap.groups import GroupedCommands

DONE, FAILED, USAGE, PARTLY = 0, 1, 2, 3

app = typer.Typer(
    name="outlap",
    cls=GroupedCommands,
    help="From a drive to a warm, verified, versioned dataset under the training job.\n\n"
    "NAME@TAG names a version: a tag, `latest`, or the first six or more digits of its id. Every command takes --json. "
    "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 partly done. Settings: $OUTLAP_HOME/outlap.toml and OUTLAP_*.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
)

_STACK, _DATA, _KEEP, _CACHE = "This machine", "Data", "Keeping and losing", "Cache"
app.command("demo", rich_help_panel=_STACK)(demo.demo)
app.command("up", rich_help_panel=_STACK)(up.up)
app.command("down", rich_help_panel=_STACK)(down.down)
app.command("status", rich_help_panel=_STACK)(status.status)
app.command("doctor", rich_help_panel=_STACK)(doctor.doctor)
app.add_typer(bench.app, rich_help_panel=_STACK)
app.command("simulate", rich_help_panel=_STACK)(simulate.simulate)
app.command("upload", rich_help_panel=_DATA)(upload.upload)
app.command("ingest", rich_help_panel=_DATA)(ingest.ingest)
app.add_typer(quarantine.quarantine, name="quarantine", rich_help_panel=_DATA)
app.add_typer(recipes.app, name="recipes", rich_help_panel=_DATA)
app.command("profile", rich_help_panel=_DATA)(profile.profile)
app.command("publish", rich_help_panel=_DATA)(publish.publish)
app.command("derive", rich_help_panel=_DATA)(derive.derive)
app.command("split", rich_help_panel=_DATA)(split.split)
app.command("export", rich_help_panel=_DATA)(export.export)
app.command("show", rich_help_panel=_DATA)(show_command.show_version)
app.command("diff", rich_help_panel=_DATA)(diff.diff)
app.command("lineage", rich_help_panel=_DATA)(lineage.lineage)
app.command("verify", rich_help_panel=_DATA)(verify.verify)
app.command("sync", rich_help_panel=_DATA)(sync.sync)
app.command("repack", rich_help_panel=_DATA)(repack.repack)
app.command("history", rich_help_panel=_KEEP)(history.history)
app.command("rollback", rich_help_panel=_KEEP)(history.rollback)
app.command("delete", rich_help_panel=_KEEP)(delete.delete)
app.command("undelete", rich_help_panel=_KEEP)(delete.undelete)
app.command("retention", rich_help_panel=_KEEP)(retention.retention)
app.command("gc", rich_help_panel=_KEEP)(gc.gc)
app.command("delete-drive", rich_help_panel=_KEEP)(delete_drive.delete_drive)
app.command("warm", rich_help_panel=_CACHE)(warm.warm)
app.command("free", rich_help_panel=_CACHE)(free.free)
app.command("pin", rich_help_panel=_CACHE)(pin.pin)
app.command("unpin", rich_help_panel=_CACHE)(pin.unpin)
app.command("mount", rich_help_panel=_CACHE)(mount.mount)
app.command("umount", rich_help_panel=_CACHE)(mount.umount)
app.add_typer(nodes.app, name="nodes", rich_help_panel=_CACHE)
app.command("trace", rich_help_panel=_CACHE)(trace.trace)
app.command("residency", rich_help_panel=_CACHE)(residency.residency)
app.add_typer(jobs.app, name="jobs", rich_help_panel=_CACHE)
app.command("top", rich_help_panel=_CACHE)(top.top)
app.add_typer(config.app, name="config", rich_help_panel=_CACHE)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        show.line(f"outlap {version('outlap')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and end.")
    ] = False,
) -> None:
    pass


def run(arguments: list[str] | None = None) -> int:
    """Run one command line and give its exit code."""
    as_json = "--json" in (sys.argv[1:] if arguments is None else arguments)
    try:
        code = app(args=arguments, standalone_mode=False)
        return int(code or DONE)
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else (DONE if done.code is None else FAILED)
    except Explained as found:
        show.error(found)
        if as_json:
            show.json_line({"error": show.error_fields(found)})
        return FAILED
    except ClickException as found:
        found.show()
        if as_json:
            show.json_line({"error": {"kind": "Usage", "what": found.format_message(), "why": "", "fix": ""}})
        return int(found.exit_code)
    except Abort:
        show.say("interrupted")
        return 130
    except KeyboardInterrupt:
        show.say("interrupted")
        return 130
    except BrokenPipeError:
        # the reader of our output has gone (`outlap show | head`); nothing more can be said to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


def main() -> None:
    sys.exit(run())
