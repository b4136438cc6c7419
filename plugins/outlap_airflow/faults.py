"""Errors of ours as Airflow understands them: what a person must mend fails at once, what may pass is tried again."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from lake.errors import Explained, StoreDown
from outlap_airflow.alerts import CALLBACKS

P = ParamSpec("P")
R = TypeVar("R")

# For default_args: 10 s, 20 s, 40 s … at most five minutes apart; the last failure is told, and when it is over
RETRIES: dict[str, Any] = {
    **CALLBACKS,
    "retries": 4,
    "retry_delay": timedelta(seconds=10),
    "retry_exponential_backoff": 2,
    "max_retry_delay": timedelta(minutes=5),
}


def may_pass(error: Explained) -> bool:
    """Whether the same request can succeed later with nothing changed by a person."""
    from cacheengine.errors import Busy, ControlDown, FetchFailed

    return isinstance(error, StoreDown | ControlDown | Busy | FetchFailed)


def told(*passing: type[Explained]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a task function raise our errors: AirflowFailException (no retry) for a fault that stays, AirflowException
    (retry with backoff) for one that may pass. `passing`: further families that may pass here."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except Explained as error:
                kind = (
                    AirflowException
                    if may_pass(error) or isinstance(error, passing)
                    else AirflowFailException
                )
                raise kind(str(error)) from error

        return wrapper

    return decorate
