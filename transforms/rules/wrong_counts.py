"""wrong-counts: a log counts other messages than it has."""

from __future__ import annotations

from transforms.rules.rule import FileRule, met

RULE = FileRule("wrong-counts", "warning", met("counts"))
