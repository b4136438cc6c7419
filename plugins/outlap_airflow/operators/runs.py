"""RunDag: another DAG as a step."""

from __future__ import annotations

from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk.exceptions import AirflowFailException


class RunDag(TriggerDagRunOperator):
    """Start a run of another DAG and wait for its end.

    A run that failed is not started again: its own tasks were tried again already.
    """

    def execute_complete(self, context: Any, event: Any) -> None:
        """Called when the run has ended. Raises AirflowFailException when it failed."""
        try:
            super().execute_complete(context, event)
        except Exception as error:
            raise AirflowFailException(
                f"{error}. Its tasks were tried again already. Next: see the run of {self.trigger_dag_id}, clear what failed there"
            ) from error
