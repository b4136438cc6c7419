"""Errors: each names the thing, the cause and the next step.

`Explained` is the base of every house's family (lake, transforms, cacheengine, outlap), so that the command line, the
HTTP services and Airflow can show any of them without knowing which house raised it.
"""

from __future__ import annotations


class Explained(Exception):
    """what: the thing that failed; why: the cause; fix: the next step for the person who reads it."""

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        self.what, self.why, self.fix = what, why, fix
        super().__init__(what, why, fix)

    def __str__(self) -> str:
        text = f"{self.what}: {self.why}" if self.why else self.what
        return f"{text}. Next: {self.fix}" if self.fix else text


class LakeError(Explained):
    """Base of what the lake raises."""


class NotFound(LakeError):
    """The named drive, dataset, version or object is not there (yet)."""


class Conflict(LakeError):
    """Someone else moved it, or other bytes stand under the same name."""


class Corrupt(LakeError):
    """Bytes do not have the hash or the form that they must have."""


class Refused(LakeError):
    """The request itself cannot be granted: a bad name, a bad query, a wrong setting."""


class Empty(Refused):
    """What was to be published has no file: nothing is wrong, and nothing is there (yet)."""


class StoreDown(LakeError):
    """A store does not answer, or refuses our credentials."""


class ReadOnly(LakeError):
    """A write was asked of a store that is read-only here."""
