"""missing-parameter-sets: key frames, or the beginning of a stream, have no parameter sets."""

from __future__ import annotations

from transforms.rules.rule import FileRule, met

RULE = FileRule("missing-parameter-sets", "warning", met("parameters"))
