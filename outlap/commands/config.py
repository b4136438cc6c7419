"""`outlap config`: the settings of a cache group, and who changed them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outlap import show
from outlap.options import AsJson, CacheIdc

if TYPE_CHECKING:
    from cacheengine.wire import SettingChange

app = typer.Typer(
    name="config",
    help="Settings that the control service of an IDC keeps: show, set, see who changed what, take back.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only say what it would touch: which nodes, which jobs.")
]
Key = Annotated[str, typer.Argument(metavar="KEY", help="As `outlap config show` lists it.")]


@app.command("show")
def show_all(idc: CacheIdc = None, as_json: AsJson = False) -> None:
    """Every setting: what holds, and what is a default."""
    from lake.config import load_config
    from outlap.options import cache_control

    found = cache_control(load_config(), idc).settings()
    if as_json:
        show.json_line({setting.key: setting.model_dump(exclude={"key"}) for setting in found})
        return
    rows = [(s.key, json.dumps(s.value), "" if s.chosen else "default") for s in found]
    show.table(("key", "value", ""), rows)


@app.command("set")
def set_one(
    key: Key,
    value: Annotated[
        str,
        typer.Argument(metavar="VALUE", help="JSON, or plain text; `default`: what holds when none is set."),
    ],
    dry_run: DryRun = False,
    idc: CacheIdc = None,
    as_json: AsJson = False,
) -> None:
    """Set one, and say what that touches. KEY may be `link.FROM.TO`, with {"bps": …, "hours": {"22": …}} in bytes a second.

    Sizes are bytes, or have a unit: 500000000, "500MB", "1.5GiB".
    """
    from cacheengine.wire import SettingRequest
    from lake.config import load_config
    from outlap.options import cache_control

    request = SettingRequest(key=key, value=_value(value), dry_run=dry_run)
    _tell(cache_control(load_config(), idc).change_setting(request), as_json)


def _value(text: str) -> Any:
    if text == "default":
        return None
    try:
        return json.loads(text)
    except ValueError:
        return text


@app.command("history")
def history(
    key: Annotated[str | None, typer.Argument(metavar="[KEY]", help="Only changes of this one.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000)] = 50,
    idc: CacheIdc = None,
    as_json: AsJson = False,
) -> None:
    """Who changed what, when, from what to what. Newest first; nothing is ever taken from it."""
    from lake.config import load_config
    from outlap.options import cache_control

    found = cache_control(load_config(), idc).setting_history(key, limit)
    if as_json:
        show.json_line([change.model_dump() for change in found])
        return
    show.table(
        ("number", "when", "who", "key", "old", "new", "touched", ""),
        [
            (
                change.number,
                show.moment(change.at_ns),
                change.who,
                change.key,
                json.dumps(change.old),
                json.dumps(change.new),
                f"{len(change.nodes)} nodes, {len(change.jobs)} jobs",
                "" if change.reverts is None else f"takes back {change.reverts}",
            )
            for change in found
        ],
    )


@app.command("revert")
def revert(
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="As `outlap config history` lists it.")],
    dry_run: DryRun = False,
    idc: CacheIdc = None,
    as_json: AsJson = False,
) -> None:
    """Take a change back: its key becomes what it was before. That is one change more."""
    from cacheengine.wire import RevertRequest
    from lake.config import load_config
    from outlap.options import cache_control

    request = RevertRequest(number=number, dry_run=dry_run)
    _tell(cache_control(load_config(), idc).revert_setting(request), as_json)


def _tell(change: SettingChange, as_json: bool) -> None:
    if as_json:
        show.json_line(change.model_dump())
        return
    old, new = (json.dumps(value) if value is not None else "default" for value in (change.old, change.new))
    show.line(f"{change.key}: {old} → {new}{'' if change.applied else ' (not applied)'}")
    show.line(f"touches {len(change.nodes)} nodes and {len(change.jobs)} jobs: {change.says}")
    for what, names in (("nodes", change.nodes), ("jobs", change.jobs)):
        if names:
            show.line(f"{what}: {', '.join(names[:20])}{' …' if len(names) > 20 else ''}")
