"""Which partitions of the catalogue a query can see: those that its own WHERE does not exclude.

DuckDB parses the query (`json_serialize_sql`). Of every `from frames where …` the conditions that stand under AND and speak only
of date, vehicle and drive with constants are evaluated by DuckDB over the keys of the catalogue. A form that is not surely understood
(a join, a sample, a sub-query in the condition, another version's syntax tree) excludes nothing: pruning saves time and never changes
an answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import pyarrow as pa

COLUMNS = ("date", "vehicle", "drive")
VIEWS = ("frames", "frames_all")
CLASSES = frozenset(
    {"COLUMN_REF", "CONSTANT", "COMPARISON", "CONJUNCTION", "BETWEEN", "OPERATOR", "CAST", "FUNCTION"}
)
# functions that give the same for the same, and fail for nothing
FUNCTIONS = frozenset(
    {"~~", "!~~", "~~*", "starts_with", "prefix", "suffix", "contains", "left", "lower", "upper"}
)


def visible(sql: str, partitions: Sequence[tuple[str, str, str]]) -> list[bool]:
    """For each (date, vehicle, drive): whether rows of it can matter to this SELECT over the views."""
    everything = [True] * len(partitions)
    try:
        with duckdb.connect() as connection:
            tree = json.loads(_one(connection, "select json_serialize_sql(?)", sql))
            readers = _selects_from_frames(tree)
            conditions = [found for node in readers if (found := _condition(node)) is not None]
            if not conditions or not len(conditions) == len(readers) == _mentions(tree):
                return everything
            known = pa.table(
                [pa.array([row[place] for row in partitions], pa.string()) for place in range(3)],
                names=list(COLUMNS),
            ).append_column("place", pa.array(range(len(partitions)), pa.int64()))
            connection.register("partitions", known)
            seen: set[int] = set()
            for condition in conditions:
                seen |= _matching(connection, condition)
    except (duckdb.Error, KeyError, TypeError, ValueError):
        return everything  # said in the module's text: what is not understood excludes nothing
    return [place in seen for place in range(len(partitions))]


def _one(connection: Any, sql: str, value: str) -> str:
    return str(connection.execute(sql, [value]).fetchall()[0][0])


def _walk(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from _walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner)


def _mentions(tree: Any) -> int:
    """How often the views are read: each must be of the understood kind. -1: a CTE has the name of one."""
    tables = sum(node.get("type") == "BASE_TABLE" for node in _walk(tree) if _is_frames(node))
    named = sum(
        str(node.get(key, "")).lower() in VIEWS for node in _walk(tree) for key in ("key", "cte_name")
    )
    return tables if not named else -1


def _is_frames(node: dict[str, Any]) -> bool:
    return str(node.get("table_name", "")).lower() in VIEWS


def _selects_from_frames(tree: Any) -> list[dict[str, Any]]:
    return [
        node
        for node in _walk(tree)
        if node.get("type") == "SELECT_NODE" and _is_frames(node.get("from_table") or {})
    ]


def _condition(node: dict[str, Any]) -> list[Any] | None:
    """The conjuncts over COLUMNS of one `from frames where …`; None when this is no plain table, or excludes nothing."""
    table = node["from_table"]
    if table["type"] != "BASE_TABLE" or table["sample"] or table["column_name_alias"] or node["sample"]:
        return None
    if table.get("at_clause") or table["schema_name"] or node["where_clause"] is None:
        return None
    where = node["where_clause"]
    conjuncts = where["children"] if where["type"] == "CONJUNCTION_AND" else [where]
    names = {"", str(table["table_name"]).lower(), str(table["alias"]).lower()}
    return [conjunct for conjunct in conjuncts if _is_plain(conjunct, names)] or None


def _is_plain(expression: Any, names: set[str]) -> bool:
    columns = 0
    for node in _walk(expression):
        kind = node.get("class")
        if kind is None:
            continue
        if kind not in CLASSES or (kind == "FUNCTION" and node["function_name"].lower() not in FUNCTIONS):
            return False
        if kind == "COLUMN_REF":
            *table, column = [name.lower() for name in node["column_names"]]
            if column not in COLUMNS or len(table) > 1 or (table and table[0] not in names):
                return False
            columns += 1
    return columns > 0


def _matching(connection: Any, conjuncts: list[Any]) -> set[int]:
    tree = json.loads(
        _one(connection, "select json_serialize_sql(?)", "select place from partitions where true")
    )
    for conjunct in conjuncts:
        for node in _walk(conjunct):
            if node.get("class") == "COLUMN_REF":
                node["column_names"] = node["column_names"][-1:]
    joined = {"class": "CONJUNCTION", "type": "CONJUNCTION_AND", "alias": "", "children": conjuncts}
    tree["statements"][0]["node"]["where_clause"] = joined if len(conjuncts) > 1 else conjuncts[0]
    sql = _one(connection, "select json_deserialize_sql(?::json)", json.dumps(tree))
    return {int(row[0]) for row in connection.execute(sql).fetchall()}
