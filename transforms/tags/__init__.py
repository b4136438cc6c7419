"""Tags: further columns of the catalogue, made of what is known of each frame, without any model.

A recipe names the taggers (`tags`), and its id covers their versions: other code or another map is another recipe. Taggers of
others are named as `package.module:NAME` (a Tagger), or registered under the entry point group `outlap.taggers`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any

import numpy as np
import pyarrow as pa

from lake.catalog import COLUMN, FRAME_SCHEMA
from transforms.errors import TransformError
from transforms.recipe import Tag
from transforms.tags import h3cell, imu, mapfile, motion, picture, sun, weather
from transforms.tags.tagger import Frames, Kind, Tagger

BUILT_IN: dict[str, Tagger] = {
    module.TAGGER.name: module.TAGGER for module in (sun, motion, h3cell, mapfile, picture, weather, imu)
}
GROUP = "outlap.taggers"
TYPES: dict[Kind, Any] = {
    "string": pa.string(),
    "bool": pa.bool_(),
    "int64": pa.int64(),
    "double": pa.float64(),
}
# columns that ingest itself adds beside FRAME_SCHEMA
TAKEN = frozenset({"missing", "partial"})


def tagger_named(name: str) -> Tagger:
    """Built in, dotted, or an entry point. Raises TransformError."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    found: object
    try:
        if ":" in name:
            module, _, attribute = name.partition(":")
            found = getattr(importlib.import_module(module), attribute)
        else:
            (entry,) = entry_points(group=GROUP, name=name)
            found = entry.load()
    except Exception as error:  # the code is the user's, and may raise anything while it is imported
        known = ", ".join(sorted(BUILT_IN))
        raise TransformError(
            f"the tagger {name[:100]!r}",
            f"it cannot be loaded: {type(error).__name__} {str(error)[:100]}",
            f"name one of {known}, `package.module:NAME`, or install it with the entry point group {GROUP}",
        ) from error
    if not isinstance(found, Tagger):
        raise TransformError(
            f"the tagger {name[:100]!r}", "it is no transforms.tags.tagger.Tagger", "correct it"
        )
    return found


def identity(tag: Tag) -> dict[str, Any]:
    """What a recipe's id covers of a tag. Raises TransformError."""
    tagger = tagger_named(tag.name)
    return {"name": tag.name, "version": tagger.version, "options": dict(tagger.identity(tag.options))}


def tag_columns(frames: Frames, tags: Sequence[Tag]) -> dict[str, pa.Array]:
    """Column → one value a frame. Raises TransformError for a tagger that fails or breaks its word."""
    found: dict[str, pa.Array] = {}
    for tag in tags:
        tagger = tagger_named(tag.name)
        try:
            promised = dict(tagger.columns(tag.options))
            made = tagger.make(frames, tag.options)
            columns = {name: _array(made[name], TYPES[kind], len(frames)) for name, kind in promised.items()}
        except TransformError:
            raise
        except Exception as error:  # the code may be the user's: a tagger that fails is named, not a crash
            raise TransformError(
                f"the tagger {tag.name[:100]!r}",
                f"it failed on {frames.vehicle}/{frames.drive}: {type(error).__name__} {str(error)[:200]}",
                "correct it, raise its version, and ingest again",
            ) from error
        for name, values in columns.items():
            if name in found or name in FRAME_SCHEMA.names or name in TAKEN or COLUMN.fullmatch(name) is None:
                raise TransformError(
                    f"the tagger {tag.name[:100]!r}",
                    f"its column {name[:80]!r} is taken, or no name",
                    "rename it",
                )
            found[name] = values
    return found


def _array(values: Any, kind: Any, count: int) -> pa.Array:
    if len(values) != count:
        raise ValueError(f"{len(values)} values for {count} frames")
    if isinstance(values, np.ndarray):
        return pa.array(values, kind, from_pandas=True)
    return pa.array([None if isinstance(v, float) and np.isnan(v) else v for v in values], kind)
