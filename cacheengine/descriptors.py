"""The limit of open files of this process: the agent and its daemons take what they are allowed.

The default, 1024, is for programs that call select(2). The agent answers as many peers at once, and the pyfuse3 tree keeps each of
its packs open.
"""

from __future__ import annotations

import resource

import structlog

MAX_FILES = 1 << 20

log = structlog.get_logger()


def raise_limit() -> int:
    """Raise RLIMIT_NOFILE to the hard limit, at most MAX_FILES; what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
        except (OSError, ValueError) as error:
            log.warning("few_open_files", limit=soft, error=str(error))
    return MAX_FILES if soft == resource.RLIM_INFINITY else soft
