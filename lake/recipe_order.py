"""Which recipe of a drive is current: the last cut, unless a person chose one.

    catalog/current/<vehicle>/<drive>/<at, ns>-<kind>-<recipe, 16 digits>[-<outputs>]      kind: `cut` or `use`

A drive that was cut once needs no mark. From its second recipe on, each recipe has a `cut` mark, and each choice of a person a `use`
mark (`use` of `last-cut` takes a choice back). Marks are put-if-absent and never change, so writers cannot overwrite each other, and
all readers of the same marks agree. A catalogue file without a mark (an older lake, or a writer that was killed) counts as cut when the
store received it. Equal times are decided by the recipe's digits: the greater is later.

Recipes are current by output: where the current recipe does not make an output, the next one in the order that makes it is.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lake import stores
from lake.names import check_part
from lake.stores import Store

PREFIX = "catalog/current/"
CUT, USE = "cut", "use"
LAST_CUT = "last-cut"
DIGITS = 16
MAX_OUTPUTS_TEXT = 100  # characters of the outputs in a key: what is longer is read from the file instead

DriveKey = tuple[str, str]


@dataclass(frozen=True)
class Mark:
    """One mark of a drive.

    Attributes:
        at_ns: When the recipe was cut or chosen.
        kind: `cut` or `use`.
        recipe: First 16 digits of the recipe's id; LAST_CUT for a choice that was taken back.
        outputs: What the recipe made of the drive; None where the mark does not say.
    """

    vehicle: str
    drive: str
    at_ns: int
    kind: str
    recipe: str
    outputs: frozenset[str] | None = None


def folder_of(vehicle: str, drive: str) -> str:
    """`catalog/current/<vehicle>/<drive>/`."""
    return f"{PREFIX}{check_part('the vehicle', vehicle)}/{check_part('the drive', drive)}/"


def mark_key(mark: Mark) -> str:
    """The key of a mark."""
    text = "+".join(sorted(mark.outputs or ()))
    outputs = f"-{text}" if text and len(text) <= MAX_OUTPUTS_TEXT else ""
    return f"{folder_of(mark.vehicle, mark.drive)}{mark.at_ns:019d}-{mark.kind}-{mark.recipe}{outputs}"


def mark_of(key: str) -> Mark | None:
    """The mark that a key is; None for any other key."""
    parts = key.removeprefix(PREFIX).split("/")
    if not key.startswith(PREFIX) or len(parts) != 3:
        return None
    at, _, rest = parts[2].partition("-")
    kind, _, rest = rest.partition("-")
    if not at.isascii() or not at.isdigit() or kind not in (CUT, USE):
        return None
    if rest == LAST_CUT:
        return Mark(parts[0], parts[1], int(at), kind, LAST_CUT)
    recipe, _, text = rest.partition("-")
    return Mark(parts[0], parts[1], int(at), kind, recipe, frozenset(text.split("+")) if text else None)


def read_marks(store: Store, prefix: str = PREFIX) -> dict[DriveKey, list[Mark]]:
    """Marks by (vehicle, drive): one listing, and no request for a single drive."""
    found: dict[DriveKey, list[Mark]] = {}
    for info in stores.list_objects(store, prefix):
        mark = mark_of(info.key)
        if mark is not None:
            found.setdefault((mark.vehicle, mark.drive), []).append(mark)
    return found


def put_mark(store: Store, mark: Mark) -> None:
    """Write a mark; the same again is fine."""
    stores.put_if_absent(store, mark_key(mark), b"{}")


def cut_times(received: Mapping[str, int], marks: Iterable[Mark]) -> dict[str, int]:
    """When each recipe of a drive was cut.

    Args:
        received: Recipe to the time (ns) at which the store received its catalogue file.
        marks: Of the drive.

    Returns:
        Recipe to time, for the recipes of `received`.
    """
    said: dict[str, int] = {}
    for mark in marks:
        if mark.kind == CUT:
            said[mark.recipe] = max(mark.at_ns, said.get(mark.recipe, 0))
    return {recipe: said.get(recipe, at_ns) for recipe, at_ns in received.items()}


def chosen(received: Iterable[str], marks: Iterable[Mark]) -> str | None:
    """The recipe that a person chose last; None where nobody did, took it back, or its file is gone."""
    uses = sorted((mark.at_ns, mark.recipe) for mark in marks if mark.kind == USE)
    return uses[-1][1] if uses and uses[-1][1] in set(received) else None


def order(received: Mapping[str, int], marks: Sequence[Mark]) -> tuple[str, ...]:
    """The recipes of a drive, the current one first.

    Args:
        received: Recipe to the time (ns) at which the store received its catalogue file.
        marks: Of the drive.

    Returns:
        All recipes of `received`.
    """
    times, first = cut_times(received, marks), chosen(received, marks)
    return tuple(sorted(times, key=lambda recipe: (recipe == first, times[recipe], recipe), reverse=True))


def outputs_by_recipe(marks: Iterable[Mark]) -> dict[str, frozenset[str]]:
    """What each recipe made of a drive, as far as its marks say."""
    return {mark.recipe: mark.outputs for mark in marks if mark.outputs is not None}


def mark_cut(
    store: Store,
    *,
    vehicle: str,
    drive: str,
    recipe: str,
    received: Mapping[str, int],
    outputs: frozenset[str],
) -> None:
    """Mark a recipe as the last cut of a drive, where the drive has another one.

    Called once its catalogue file is there, so that of two writers at the same time at least one sees the other's file.

    Args:
        recipe: First 16 digits of its id.
        received: All recipes of the drive, and when the store received their files (ns).
        outputs: What the recipe made of the drive.
    """
    if set(received) <= {recipe}:
        return
    marks = read_marks(store, folder_of(vehicle, drive)).get((vehicle, drive), [])
    marked = {mark.recipe for mark in marks if mark.kind == CUT}
    if recipe in marked:
        return
    # the others first: a store that is copied elsewhere gives all its objects new times
    for other, at_ns in sorted(received.items()):
        if other != recipe and other not in marked:
            put_mark(store, Mark(vehicle, drive, at_ns, CUT, other))
    put_mark(store, Mark(vehicle, drive, after(received, marks, but=recipe), CUT, recipe, outputs))


def after(received: Mapping[str, int], marks: Iterable[Mark], but: str | None = None) -> int:
    """A time (ns) later than all that the drive has, whatever this machine's clock says; `but`: a recipe that does not count."""
    last = [at_ns for recipe, at_ns in cut_times(received, marks).items() if recipe != but]
    return max(time.time_ns(), *(at_ns + 1 for at_ns in last), *(mark.at_ns + 1 for mark in marks), 0)
