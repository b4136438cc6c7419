"""What the cache engine raises: each names the thing, the cause and the next step (see lake.errors)."""

from __future__ import annotations

from lake.errors import Explained


class CacheError(Explained):
    """Base of what the cache engine raises."""


class NoSpace(CacheError):
    """What was asked does not fit; says what is needed, what there is and what would make room."""


class Busy(CacheError):
    """It is mounted, leased or being worked on by another just now."""


class Unauthorised(CacheError):
    """No token, a wrong one, or one that does not allow this."""


class ControlDown(CacheError):
    """The control service or an agent does not answer."""


class MountFailed(CacheError):
    """The kernel, or FUSE, would not mount or unmount; `why` carries what it said."""


class FetchFailed(CacheError):
    """Bytes could not be fetched from any source, or did not have the right hash."""
