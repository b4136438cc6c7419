"""Waiting for a moment without holding a worker."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from airflow.providers.standard.triggers.temporal import DateTimeTrigger
from airflow.sdk import BaseOperator


class WaitUntil(BaseOperator):
    """Wait for a moment (ISO 8601 with offset) without holding a worker; a moment that has passed is no wait."""

    template_fields: Sequence[str] = ("moment",)
    ui_color = "#eef"

    def __init__(self, *, moment: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.moment = moment

    def execute(self, context: Any) -> None:
        moment = datetime.fromisoformat(str(self.moment))
        if moment > datetime.now(UTC):
            self.defer(trigger=DateTimeTrigger(moment=moment), method_name="finish")

    def finish(self, context: Any, event: Any) -> None:
        """Where the task goes on when the moment has come."""
