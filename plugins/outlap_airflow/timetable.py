"""When scheduled trainings begin: early enough that their warm-up can be done by the training time.

A run's data interval ends at its training time. It begins `lead` before that, which is the run's logical date: Airflow starts no task
before that (airflow/ti_deps/deps/runnable_exec_date_dep.py). The run plans, and waits until the estimate says that warming must begin.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.timetables.base import DagRunInfo, DataInterval, TimeRestriction
from airflow.timetables.trigger import CronTriggerTimetable


class TrainingTimetable(CronTriggerTimetable):
    """Training times by cron in a time zone, each run started `lead` earlier. When clocks change, the training time follows
    them and the lead stays as long as it is."""

    def __init__(self, cron: str, *, timezone: Any, lead: timedelta) -> None:
        # a training time that has passed before the DAG was there is not made up for
        super().__init__(cron, timezone=timezone, run_immediately=timedelta(0))
        self.lead = lead

    @property
    def summary(self) -> str:
        return f"{self._expression} less {self.lead}"

    def serialize(self) -> dict[str, Any]:
        return {**super().serialize(), "lead_s": self.lead.total_seconds()}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> TrainingTimetable:
        from airflow._shared.timezones.timezone import parse_timezone

        return cls(
            data["expression"],
            timezone=parse_timezone(data["timezone"]),
            lead=timedelta(seconds=data["lead_s"]),
        )

    def next_dagrun_info(
        self, *, last_automated_data_interval: DataInterval | None, restriction: TimeRestriction
    ) -> DagRunInfo | None:
        found = super().next_dagrun_info(
            last_automated_data_interval=last_automated_data_interval, restriction=restriction
        )
        if found is None:
            return None
        begin = found.run_after - self.lead
        return DagRunInfo(run_after=begin, data_interval=DataInterval(begin, found.run_after))
