"""Errors of the command and of the local stack."""

from __future__ import annotations

from lake.errors import Explained


class StackError(Explained):
    """The local stack cannot be started, stopped or spoken to."""


class DemoFailed(Explained):
    """A step of the demo did not end as it must."""


class NotHere(Explained):
    """The command needs something that the settings do not name."""
