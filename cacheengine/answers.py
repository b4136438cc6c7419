"""Errors over HTTP: an Explained becomes `{"kind", "what", "why", "fix"}` with a status, and the same exception at the client."""

from __future__ import annotations

import json

from cacheengine import errors as cache_errors
from lake import errors as lake_errors
from lake.errors import Explained

_STATUS: dict[type[Explained], int] = {
    lake_errors.NotFound: 404,
    lake_errors.Conflict: 409,
    lake_errors.Refused: 400,
    lake_errors.Empty: 400,
    lake_errors.ReadOnly: 405,
    lake_errors.Corrupt: 502,
    lake_errors.StoreDown: 503,
    cache_errors.Unauthorised: 403,
    cache_errors.Busy: 423,
    cache_errors.NoSpace: 507,
    cache_errors.ControlDown: 503,
    cache_errors.FetchFailed: 502,
    cache_errors.MountFailed: 500,
    cache_errors.CacheError: 500,
    lake_errors.LakeError: 500,
}
_KINDS = {kind.__name__: kind for kind in _STATUS}
# for answers of a proxy in between, or of an older service, that name no kind
_FROM_STATUS: dict[int, type[Explained]] = {
    400: lake_errors.Refused,
    401: cache_errors.Unauthorised,
    403: cache_errors.Unauthorised,
    404: lake_errors.NotFound,
    409: lake_errors.Conflict,
    413: lake_errors.Refused,
    422: lake_errors.Refused,
    423: cache_errors.Busy,
    502: cache_errors.ControlDown,
    503: cache_errors.ControlDown,
    504: cache_errors.ControlDown,
    507: cache_errors.NoSpace,
}


def status_of(error: Explained) -> int:
    """The HTTP status that an error is sent with."""
    return next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), 500)


def body_of(error: Explained) -> dict[str, str]:
    """The JSON that an error is sent as."""
    return {"kind": type(error).__name__, "what": error.what, "why": error.why, "fix": error.fix}


def error_from(status: int, body: bytes, asked: str) -> Explained:
    """The exception that an answer stands for. `asked`: what was asked, for answers that explain nothing."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    kind: type[Explained] = _FROM_STATUS.get(status, cache_errors.CacheError)
    if not isinstance(value, dict) or not isinstance(value.get("what"), str):
        return kind(asked, f"the answer was HTTP {status} without a reason", "see the log of the service")
    kind = _KINDS.get(str(value.get("kind")), kind)
    return kind(value["what"], str(value.get("why", "")), str(value.get("fix", "")))
