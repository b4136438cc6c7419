"""Errors of this house. Bad recordings are no errors here but findings (transforms.rules): they end in quarantine."""

from __future__ import annotations

import errno

from lake.errors import Explained, ReadOnly, StoreDown


class TransformError(Explained):
    """The work could not be done, and no recording is to blame: a wrong recipe, no scratch space."""


class Unreadable(TransformError):
    """A recording cannot be opened, indexed or decoded; rules and ingest turn it into a finding."""


# what the machine lacks, or a disk that fails: the same recording may be read elsewhere, or later
OF_MACHINE = (
    *(errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.EINTR, errno.ENODEV, errno.ESTALE, errno.ETIMEDOUT),
)


def is_of_machine(error: BaseException) -> bool:
    """Whether a failure says something of this machine or of a store, and nothing of the recording."""
    if isinstance(error, Unreadable):
        return False
    if isinstance(error, (MemoryError, StoreDown, ReadOnly, TransformError)):
        return True
    return isinstance(error, OSError) and error.errno in OF_MACHINE
