"""Waiting until a version is where it is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from outlap_airflow import hooks
from outlap_airflow.faults import told
from outlap_airflow.links import LINKS, show
from outlap_airflow.triggers import ResidencyTrigger, enough, residency


class ResidencySensor(BaseOperator):
    """Wait, without holding a worker, until nodes of an IDC hold `dataset@ref`, resident and verified. It warms nothing itself.

    nodes: which are asked about (`all`, names, `role=gpu`, `label.KEY=VALUE`); on: how many of them are enough (None: each);
    at_least: which share of the files (0 to 1]. Returns {dataset, version, nodes {name: share}, warm [names]}.
    """

    template_fields: Sequence[str] = ("dataset", "ref", "idc", "nodes", "at_least", "outlap_conn_id")
    operator_extra_links = LINKS
    ui_color = "#e8f8f5"

    def __init__(
        self,
        *,
        dataset: str,
        ref: str = "latest",
        idc: str | None = None,
        nodes: str = "all",
        at_least: float | str = 1.0,
        on: int | None = 1,
        poll_s: float = 10.0,
        wait_limit: timedelta = timedelta(hours=12),
        outlap_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataset, self.ref, self.idc, self.nodes = dataset, ref, idc, nodes
        self.at_least, self.on, self.poll_s, self.wait_limit = at_least, on, poll_s, wait_limit
        self.outlap_conn_id = outlap_conn_id

    def execute(self, context: Any) -> Any:
        share = float(self.at_least)
        if not 0 < share <= 1:
            raise AirflowFailException(f"at_least {share}: it is a share of all files, above 0 and up to 1")
        seen = self._look(share)
        if enough(seen, self.on):
            return self._done(seen)
        trigger = ResidencyTrigger(
            idc=self.idc or "",
            # the version that was seen now: `latest` may move while we wait
            request={"dataset": self.dataset, "ref": seen["version"], "nodes": self.nodes or "all"},
            at_least=share,
            on=self.on,
            poll_s=self.poll_s,
            conn_id=self.outlap_conn_id or None,
        )
        self.defer(trigger=trigger, method_name="finish", timeout=self.wait_limit)

    @told()
    def _look(self, share: float) -> dict[str, Any]:
        found = hooks.reach(self.idc or None, self.outlap_conn_id or None)
        request = {"dataset": self.dataset, "ref": self.ref, "nodes": self.nodes or "all"}
        return residency(found, request, share)

    def finish(self, context: Any, event: Mapping[str, Any]) -> Any:
        """Where the task goes on when the trigger has fired."""
        if "error" in event:
            raise (AirflowException if event.get("again") else AirflowFailException)(event["error"])
        return self._done(dict(event))

    def _done(self, seen: dict[str, Any]) -> dict[str, Any]:
        show(self, dataset=seen["dataset"], version=seen["version"], idc=self.idc)
        return seen
