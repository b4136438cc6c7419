"""lost-pictures: raw video has holes: units of zeros, or order counts that are left out. Lost ends leave no trace there."""

from __future__ import annotations

from transforms.rules.rule import FileRule, met

RULE = FileRule("lost-pictures", "warning", met("lost"), inferred=True)
