"""bad-crc: a CRC of a log is not that of its bytes: they were damaged after they were written."""

from __future__ import annotations

from transforms.rules.rule import FileRule, met

RULE = FileRule("bad-crc", "error", met("crc"))
