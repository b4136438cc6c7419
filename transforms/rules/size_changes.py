"""size-changes: pictures of one channel have several sizes."""

from __future__ import annotations

from transforms.rules.rule import FileRule, met

RULE = FileRule("size-changes", "warning", met("resized"))
