"""Why a task failed, kept with the task, so that who follows its run is told the cause and not only that there is a log."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from lake.config import load_config
from outlap_airflow import alerts

R = TypeVar("R")
KEY = "cause"
MAX_TEXT = 2000


def kept(execute: Callable[[Any, Any], R]) -> Callable[[Any, Any], R]:
    """Wrap the `execute` of an operator: what it raises is kept in the task's store under KEY, without secrets, and raised.

    Args:
        execute: Takes the operator and the context.

    Returns:
        The same, which also clears the cause of an earlier try.
    """

    @functools.wraps(execute)
    def wrapper(operator: Any, context: Any) -> R:
        store = context.get("task_state_store")
        try:
            result = execute(operator, context)
        except Exception as error:
            if store is not None and type(error).__name__ != "AirflowSkipException":
                store.set(KEY, alerts.scrub(str(error), load_config())[:MAX_TEXT])
            raise
        if store is not None and store.get(KEY):
            store.set(KEY, "")
        return result

    return wrapper
