"""Whether JSON is what a Kubernetes type allows, by the types of its own client."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from kubernetes.client import models

SIMPLE: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "bool": bool,
    "float": (int, float),
    "object": (str, int, float, bool, dict, list),
}


def problems(value: Any, kind: str, where: str) -> Iterator[str]:
    """Where a value differs from a Kubernetes type: unknown fields, wrong types, missing required ones."""
    if inner := re.fullmatch(r"list\[(.+)]", kind):
        if not isinstance(value, list):
            yield f"{where}: no list"
            return
        for place, item in enumerate(value):
            yield from problems(item, inner[1], f"{where}[{place}]")
    elif inner := re.fullmatch(r"dict\(str, (.+)\)|dict\[str, (.+)]", kind):
        if not isinstance(value, dict):
            yield f"{where}: no mapping"
            return
        for key, item in value.items():
            yield from problems(item, inner[1] or inner[2], f"{where}.{key}")
    elif kind in SIMPLE:
        if not isinstance(value, SIMPLE[kind]) or (kind == "int" and isinstance(value, bool)):
            yield f"{where}: {value!r} is no {kind}"
    else:
        yield from _model_problems(value, kind, where)


def _model_problems(value: Any, kind: str, where: str) -> Iterator[str]:
    model = getattr(models, kind)
    if not isinstance(value, dict):
        yield f"{where}: no {kind}"
        return
    names = {json_name: name for name, json_name in model.attribute_map.items()}
    for key, item in value.items():
        if key not in names:
            yield f"{where}.{key}: {kind} has no such field"
        else:
            yield from problems(item, model.openapi_types[names[key]], f"{where}.{key}")
    try:  # its setters refuse what is required and missing
        model(**{names[key]: item for key, item in value.items() if key in names})
    except ValueError as error:
        yield f"{where}: {error}"
