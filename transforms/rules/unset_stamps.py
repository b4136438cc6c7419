"""unset-stamps: the stamps of a channel come from a clock that was never set."""

from __future__ import annotations

from transforms.rules.rule import FileRule, met

RULE = FileRule("unset-stamps", "warning", met("clock"))
