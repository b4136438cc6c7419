"""`outlap bench`: measure against what people use today, side by side in one run."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from outlap import show
from outlap.options import AsJson

if TYPE_CHECKING:
    from benchmarks.report import Report

app = typer.Typer(
    name="bench",
    help="Measure against what people use today, side by side in one run. `make bench` installs the others.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Quick = Annotated[bool, typer.Option("--quick", help="Few files and rounds: under a minute, rough figures.")]
Plot = Annotated[Path | None, typer.Option("--plot", help="Draw the figures into this SVG.")]
Write = Annotated[
    Path | None,
    typer.Option(
        "--write",
        help="Put the figures into this Markdown page, in place of this benchmark's older ones; the plot beside it.",
    ),
]


@app.command("read")
def read(quick: Quick = False, plot: Plot = None, write: Write = None, as_json: AsJson = False) -> None:
    """Reads, walks, memory and warm-up: our views, ext4, JuiceFS and rclone on the same files. Needs root."""
    _bench("read", quick, plot, write, as_json)


@app.command("lake")
def lake(quick: Quick = False, plot: Plot = None, write: Write = None, as_json: AsJson = False) -> None:
    """Manifests, images, diff, sync and warm plans of large versions."""
    _bench("lake", quick, plot, write, as_json)


@app.command("image")
def image(quick: Quick = False, plot: Plot = None, write: Write = None, as_json: AsJson = False) -> None:
    """Metadata images of up to ten million rows: built, checked by fsck and mounted. Needs root for the mounts."""
    _bench("image", quick, plot, write, as_json)


@app.command("transforms")
def transforms(quick: Quick = False, plot: Plot = None, write: Write = None, as_json: AsJson = False) -> None:
    """Frames from recordings: against libvips, Pillow and the ffmpeg command."""
    _bench("transforms", quick, plot, write, as_json)


@app.command("group")
def group(quick: Quick = False, plot: Plot = None, write: Write = None, as_json: AsJson = False) -> None:
    """A cache group: bytes that the store sends for several nodes, and how long they take."""
    _bench("group", quick, plot, write, as_json)


@app.command("eta")
def eta(quick: Quick = False, plot: Plot = None, write: Write = None, as_json: AsJson = False) -> None:
    """Whether the progress of a warm moves, and what it says of the time that is left, over a link of steady speed. Needs root."""
    _bench("eta", quick, plot, write, as_json)


@app.command("nightly")
def nightly(quick: Quick = False, plot: Plot = None, write: Write = None, as_json: AsJson = False) -> None:
    """What a night with 1 % new drives asks of the stores: publish, sync and warm, in requests and bytes."""
    _bench("nightly", quick, plot, write, as_json)


@app.command("control")
def control(quick: Quick = False, plot: Plot = None, write: Write = None, as_json: AsJson = False) -> None:
    """The control service under 1,000 simulated nodes of 100 versions each: requests, bytes, processor and latency."""
    _bench("control", quick, plot, write, as_json)


@app.command("dags")
def dags(quick: Quick = False, plot: Plot = None, write: Write = None, as_json: AsJson = False) -> None:
    """How long Airflow takes to read each DAG file, and whether reading imports what it should not."""
    _bench("dags", quick, plot, write, as_json)


@app.command("builds")
def builds(
    other: Annotated[Path, typer.Option("--other", help="A checkout of the build to compare with.")],
    rounds: Annotated[
        int | None, typer.Option("--rounds", min=1, help="How often each view is read.")
    ] = None,
    quick: Quick = False,
    write: Write = None,
    as_json: AsJson = False,
) -> None:
    """Reads through the views of this build and of another one, in turns, on the same packs. Needs root."""
    _bench("builds", quick, None, write, as_json, other=other.resolve(), rounds=rounds)


def _bench(
    name: str, quick: bool, plot: Path | None, write: Path | None, as_json: bool, **options: object
) -> None:
    """Run `benchmarks.<name>.run(quick=…) -> Report` and show it. A goal that is not met is a figure, no failure."""
    import structlog

    from benchmarks import report as reports
    from lake.errors import NotFound

    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger("warning"),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )

    try:
        module = importlib.import_module(f"benchmarks.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"benchmarks.{name}":
            raise
        raise NotFound(
            f"the benchmark {name!r}", "this release has none of that name", "see `outlap bench --help`"
        ) from error
    found = cast("Report", module.run(quick=quick, **options))
    picture = plot or (
        write.with_name(f"{write.stem}-{name}.svg") if write is not None and found.plots else None
    )
    if picture is not None:
        reports.write_plot(found, picture)
    if write is not None:
        section = reports.to_markdown(found, picture.name if picture is not None else None)
        page = write.read_text(encoding="utf-8") if write.exists() else ""
        write.write_text(reports.into_page(page, section), encoding="utf-8")
    if as_json:
        show.line(reports.to_json(found))
    else:
        show.table(reports.COLUMNS, [reports.cells(row) for row in found.rows], title=found.title)
        for note in found.notes if sys.stdout.isatty() else ():
            show.line(note)
    missed = [row.name for row in found.rows if row.met is False]
    if missed:
        show.say(f"{len(missed)} goals not met: {'; '.join(missed)}")
