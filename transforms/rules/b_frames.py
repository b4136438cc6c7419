"""b-frames: video in messages has B frames, which the format forbids: they arrive out of order."""

from __future__ import annotations

from transforms.rules.rule import FileRule, met

RULE = FileRule("b-frames", "warning", met("b-frames"))
