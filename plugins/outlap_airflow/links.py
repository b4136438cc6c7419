"""Links from a task to the pages of Outlap: the version, its job, its way from drive to training.

An operator tells what it works on with `show`; Airflow asks the links when the task has run or waits.
"""

from __future__ import annotations

from typing import Any, ClassVar
from urllib.parse import urlencode

import attrs
from airflow.sdk import BaseOperator, BaseOperatorLink
from airflow.sdk.configuration import conf

PAGES = {"version": "outlap-datasets", "job": "outlap-jobs", "trace": "outlap-trace"}


def show(operator: Any, **facts: Any) -> None:
    """Remember what the operator works on: any of dataset, version, tag, idc, job, run, files, bytes, parents. None is left out."""
    known = getattr(operator, "shown", {})
    operator.shown = {**known, **{name: fact for name, fact in facts.items() if fact not in (None, "")}}


def shown(operator: Any) -> dict[str, Any]:
    return dict(getattr(operator, "shown", {}))


def page_url(page: str, **asked: Any) -> str:
    """The address of a page (a key of PAGES) with its query, below Airflow's own; what is empty is left out."""
    base = str(conf.get("api", "base_url", fallback="") or "").rstrip("/")
    query = urlencode({name: value for name, value in asked.items() if value})
    return f"{base}/plugin/{PAGES[page]}" + (f"?{query}" if query else "")


@attrs.define()
class VersionLink(BaseOperatorLink):
    """The version that a task published, synced, warmed or freed."""

    operators: ClassVar[list[type[BaseOperator]]] = []
    name: ClassVar[str] = "Version"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        facts = shown(operator)
        if "version" not in facts:
            return ""
        return page_url("version", dataset=facts.get("dataset"), version=facts["version"])


@attrs.define()
class JobLink(BaseOperatorLink):
    """The job of the control service that a task waits for."""

    operators: ClassVar[list[type[BaseOperator]]] = []
    name: ClassVar[str] = "Job"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        facts = shown(operator)
        return page_url("job", idc=facts.get("idc"), job=facts["job"]) if "job" in facts else ""


@attrs.define()
class TraceLink(BaseOperatorLink):
    """A version on its way: publish, sync to each IDC, warm, train."""

    operators: ClassVar[list[type[BaseOperator]]] = []
    name: ClassVar[str] = "Way of the version"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        facts = shown(operator)
        if "version" not in facts:
            return ""
        return page_url("trace", dataset=facts.get("dataset"), version=facts["version"])


LINKS = (VersionLink(), JobLink(), TraceLink())
