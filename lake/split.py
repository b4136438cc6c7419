"""Split a version by drive (or another column), so that no drive is in two parts.

The part of a value is BLAKE3(salt, value) as a fraction of all hashes against the shares: it depends on nothing else, so a
drive stays where it is while the dataset grows, and every machine says the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from blake3 import blake3

from lake import versions
from lake.errors import Empty, Refused
from lake.manifests import read_root
from lake.names import check_dataset
from lake.publish import Published, publish_rows
from lake.refs import Ref
from lake.stores import Store

Shares = Sequence[tuple[str, int]]
FAR = 0.25  # of a share: what differs by more is told


def parse_shares(text: str) -> Shares:
    """`train=80,val=20`: names and whole weights. Raises Refused."""
    found = []
    for piece in text.split(","):
        name, _, weight = piece.strip().partition("=")
        if not weight.isascii() or not weight.isdigit() or not 0 < int(weight) <= 10**6:
            raise Refused(
                f"the share {piece.strip()!r}",
                "it is not NAME=WEIGHT, a whole number from 1 up",
                "for example train=80,val=20",
            )
        check_dataset(f"x-{name}")
        found.append((name, int(weight)))
    if len({name for name, _ in found}) != len(found) or len(found) < 2:
        raise Refused(
            f"the shares {text!r}", "there must be two or more, each name once", "for example train=80,val=20"
        )
    return found


def share_of(value: str, shares: Shares, salt: str = "") -> str:
    """The name of the part that a value falls into."""
    total = sum(weight for _, weight in shares)
    place = int.from_bytes(blake3(f"{salt}\0{value}".encode()).digest(8), "big") * total >> 64
    for name, weight in shares:
        if place < weight:
            return name
        place -= weight
    raise AssertionError("a hash is below 1")


@dataclass(frozen=True)
class Share:
    """What a share of a version got.

    Attributes:
        name: Of the share.
        asked: Its weight, as a fraction of all.
        files: Its files.
        got: Its files, as a fraction of all.
        values: How many drives (values of the column) it has.
        all_values: How many all shares have.
        by: The column.
    """

    name: str
    asked: float
    files: int
    got: float
    values: int
    all_values: int
    by: str

    @property
    def warning(self) -> str | None:
        """What is told where it is far from what was asked: by more than a quarter of the smaller side."""
        if abs(self.got - self.asked) <= FAR * min(self.asked, 1 - self.asked):
            return None
        return (
            f"{self.name} has {self.got:.0%} of the files, {self.asked:.0%} were asked: a value of {self.by} is never divided, "
            f"and it got {self.values} of {self.all_values} (another --salt, or more of them, comes nearer)"
        )


def measure_shares(
    store: Store, version: str, shares: Shares, *, by: str = "drive", salt: str = ""
) -> list[Share]:
    """What each share of a version gets; nothing is published.

    Args:
        store: The lake.
        version: Its id.
        shares: Names and weights.
        by: The column whose values are never divided.
        salt: Another text is another split.

    Returns:
        In the order of the shares.

    Raises:
        Refused: Files have no such column.
        Empty: A share gets no file.
    """
    files: dict[str, int] = {}
    for table in versions.rows(store, version):
        for row in _values(table, by).value_counts().to_pylist():
            files[row["values"]] = files.get(row["values"], 0) + row["counts"]
    total, weights = sum(files.values()), sum(weight for _, weight in shares)
    found = []
    for name, weight in shares:
        mine = [value for value in files if share_of(value, shares, salt) == name]
        if not mine:
            raise Empty(
                f"the share {name!r}",
                f"there is no file to publish in it: all {len(files)} values of {by} fall into other shares",
                "split more of them, or choose another salt (--salt TEXT)",
            )
        count = sum(files[value] for value in mine)
        found.append(Share(name, weight / weights, count, count / total, len(mine), len(files), by))
    return found


def _values(table: pa.Table, by: str) -> pa.ChunkedArray:
    """The column as text. Raises Refused where files have none."""
    if by not in table.schema.names or table[by].null_count:
        lacking = table[by].null_count if by in table.schema.names else table.num_rows
        raise Refused(
            f"split by {by}",
            f"{lacking:,} files have none",
            f"the columns are {', '.join(table.schema.names)}: --by NAME",
        )
    return pc.cast(table[by], pa.string())


def _part(store: Store, version: str, by: str, chosen: str, shares: Shares, salt: str) -> Iterator[pa.Table]:
    known: dict[str, bool] = {}
    for table in versions.rows(store, version):
        values = _values(table, by)
        for value in pc.unique(values).to_pylist():
            if value not in known:
                known[value] = share_of(value, shares, salt) == chosen
        mine = pa.array([value for value, is_mine in known.items() if is_mine], pa.string())
        yield table.filter(pc.is_in(values, mine))


def split_share(
    store: Store,
    ref: Ref,
    shares: Shares,
    share: str,
    origin: Mapping[str, Any],
    by: str = "drive",
    salt: str = "",
    dataset: str | None = None,
    tag: str | None = None,
) -> Published:
    """Publish one share of a version as `dataset` (default `<its dataset>-<share>`). Nothing is copied: it uses the version's packs.

    Raises Refused when the share gets no file, or files have no such column.
    """
    if share not in [name for name, _ in shares]:
        names = ", ".join(name for name, _ in shares)
        raise Refused(f"the share {share[:80]!r}", f"the shares are {names}", "name one of them")
    root = read_root(store, ref.version)
    schema = _check_column(store, ref, by)
    made_by = {
        **origin,
        "split_of": f"{ref.dataset}@{ref.tag}",
        "parent": ref.version,
        "by": by,
        "shares": ",".join(f"{name}={weight}" for name, weight in shares),
        "salt": salt,
        "share": share,
    }
    rows = _part(store, ref.version, by, share, shares, salt)
    name = dataset or f"{ref.dataset}-{share}"
    return publish_rows(store, name, rows, schema, made_by, tag, identity=root.identity)


def split(
    store: Store,
    ref: Ref,
    shares: Shares,
    origin: Mapping[str, Any],
    by: str = "drive",
    salt: str = "",
    name: str | None = None,
    tag: str | None = None,
) -> list[Published]:
    """Publish each share of a version as `<name>-<share>` (name: the dataset's).

    Raises as `split_share`, before anything is published.
    """
    return [one for one, _ in split_measured(store, ref, shares, origin, by, salt, name, tag)]


def split_measured(
    store: Store,
    ref: Ref,
    shares: Shares,
    origin: Mapping[str, Any],
    by: str = "drive",
    salt: str = "",
    name: str | None = None,
    tag: str | None = None,
) -> list[tuple[Published, Share]]:
    """The same, with what each share got."""
    _check_column(store, ref, by)
    measured = measure_shares(store, ref.version, shares, by=by, salt=salt)
    return [
        (
            split_share(
                store, ref, shares, one.name, origin, by, salt, f"{name or ref.dataset}-{one.name}", tag
            ),
            one,
        )
        for one in measured
    ]


def _check_column(store: Store, ref: Ref, by: str) -> Any:
    """The schema of a version's rows. Raises Refused when it has no such column."""
    schema = next(iter(versions.rows(store, ref.version))).schema
    if by not in schema.names:
        raise Refused(
            f"split by {by}", f"the columns are {', '.join(schema.names)}", "name one of them: --by NAME"
        )
    return schema
