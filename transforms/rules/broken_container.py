"""broken-container: a record of a log, or a page of its database, is not what it must be."""

from __future__ import annotations

from transforms.rules.rule import FileRule, met

RULE = FileRule("broken-container", "error", met("container"))
