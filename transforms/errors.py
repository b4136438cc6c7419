"""Errors of this house. Bad recordings are no errors here but findings (transforms.rules): they end in quarantine."""

from __future__ import annotations

from lake.errors import Explained


class TransformError(Explained):
    """The work could not be done, and no recording is to blame: a wrong recipe, no scratch space."""


class Unreadable(TransformError):
    """A recording cannot be opened, indexed or decoded; rules and ingest turn it into a finding."""
