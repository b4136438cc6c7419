"""messages-left-out: single messages, pictures or positions cannot be read, and are left out."""

from __future__ import annotations

from transforms.rules.rule import FileRule, met

RULE = FileRule("messages-left-out", "warning", met("message"))
