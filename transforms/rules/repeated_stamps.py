"""repeated-stamps: frames of one channel have the same stamp; the first of them counts."""

from __future__ import annotations

from transforms.rules.rule import FileRule, met

RULE = FileRule("repeated-stamps", "warning", met("repeated"))
