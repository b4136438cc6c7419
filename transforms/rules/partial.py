"""partial: a recording was cut off; what is whole before the cut is taken."""

from __future__ import annotations

from transforms.rules.rule import FileRule, met

RULE = FileRule("partial", "warning", met("partial"))
