"""Ingest, Publish, Announce, Sync: the steps that move bytes themselves, in the worker that runs them.

Each may be killed and run again: a drive goes on with the shards that were cut, a publish with the version that its run made, a
sync with the objects that arrived.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from lake.config import load_config
from outlap_airflow import causes, ingest, publish, sync
from outlap_airflow.assets import dataset_published, dataset_synced
from outlap_airflow.links import LINKS, show
from outlap_airflow.openlineage import facets_of

PROGRESS_EVERY_S = 5.0


class Ingest(BaseOperator):
    """Check, cut and catalogue one landed drive. pair: {vehicle, drive}. Returns the report, findings of a refused drive included.

    cut, rate_hz: as in the form of ingest_drives.
    """

    template_fields: Sequence[str] = ("pair", "cut", "rate_hz")
    ui_color = "#eaf2fb"

    def __init__(
        self,
        *,
        pair: Mapping[str, str],
        cut: str = "keyframes",
        rate_hz: float | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.pair, self.cut, self.rate_hz = pair, cut, rate_hz

    def execute(self, context: Any) -> dict[str, Any]:
        pair = dict(self.pair)
        context["drive_name"] = f"{pair['vehicle']}/{pair['drive']}"
        report = ingest.ingest_one(pair, self.cut, number(self.rate_hz))
        show(self, vehicle=pair["vehicle"], drive=pair["drive"], idc=load_config().idc)
        return report

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """landing/… → drives/…, frames"""
        return facets_of(self)


class Publish(BaseOperator):
    """Publish the next version of a dataset: what `query` selects, or what `source` says (outlap_airflow.sources).

    Returns the version (dataset, tag, version, files, bytes, is_new, mine). A run that is run again stays with the version that it
    made. Announce tells the others. night: ask the query of the catalogue as that night left it (lake/nights.py).
    """

    template_fields: Sequence[str] = ("dataset", "query", "source", "tag", "night")
    operator_extra_links = LINKS
    ui_color = "#fef9e7"

    def __init__(
        self,
        *,
        dataset: str,
        query: str | None = None,
        source: Mapping[str, Any] | str | None = None,
        tag: str | None = None,
        night: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataset, self.query, self.source, self.tag, self.night = dataset, query, source, tag, night

    @causes.kept
    def execute(self, context: Any) -> dict[str, Any]:
        run = context["dag_run"]
        source = publish.source_of(text(self.query), self.source)
        made = publish.publish(self.dataset, source, text(self.tag), run.dag_id, run.run_id, text(self.night))
        show(
            self,
            **{
                name: made.get(name)
                for name in ("dataset", "version", "tag", "files", "bytes", "idc", "parents")
            },
        )
        return made

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """frames, or the parents → the version."""
        return facets_of(self)


class Announce(BaseOperator):
    """Emit `dataset_published` for a version that Publish returned: sync and warm follow.

    announce: `always`, or `new`: skip when the version was there before this run.
    """

    template_fields: Sequence[str] = ("published", "announce")
    operator_extra_links = LINKS
    ui_color = "#fef9e7"

    def __init__(self, *, published: Any, announce: str = "always", **kwargs: Any) -> None:
        kwargs.setdefault("outlets", [dataset_published])
        super().__init__(**kwargs)
        self.published, self.announce = published, announce

    @causes.kept
    def execute(self, context: Any) -> str:
        made = self.published
        show(self, dataset=made["dataset"], version=made["version"], tag=made["tag"])
        if not publish.worth_announcing(made, self.announce):
            raise AirflowSkipException(f"{made['dataset']} is still {made['tag']}: nothing new to announce")
        return publish.announce(made, context["outlet_events"])


class Sync(BaseOperator):
    """Bring `dataset@ref` to another IDC, then emit `dataset_synced`. Returns the report.

    It holds its worker, for it moves the bytes; what arrived is kept for the next try. How far it is stands in the task's store
    under `progress` {done, total, began_ns, at_ns}, a few seconds old at most.
    """

    template_fields: Sequence[str] = ("dataset", "ref", "idc")
    operator_extra_links = LINKS
    ui_color = "#f4ecf7"

    def __init__(self, *, dataset: str, idc: str, ref: str = "latest", **kwargs: Any) -> None:
        kwargs.setdefault("outlets", [dataset_synced])
        super().__init__(**kwargs)
        self.dataset, self.ref, self.idc = dataset, ref, idc

    @causes.kept
    def execute(self, context: Any) -> dict[str, Any]:
        progress = progress_into(context.get("task_state_store"))
        report = sync.sync_to(self.dataset, self.ref, self.idc, progress)
        if progress is not None:  # also where nothing was left to move
            progress(report["bytes_copied"], report["bytes_copied"])
        show(
            self, **{name: report[name] for name in ("dataset", "version", "tag", "source_idc")}, idc=self.idc
        )
        if dataset_synced in self.outlets:
            sync.announce_synced(report, self.idc, context["outlet_events"])
        return report

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """The version here → the version there."""
        return facets_of(self)


def progress_into(store: Any) -> Callable[[int, int], None] | None:
    """progress(done, total) that keeps the newest values in a task's store, at most each PROGRESS_EVERY_S; None without one."""
    if store is None:
        return None
    began_ns, told = time.time_ns(), 0.0

    def progress(done: int, total: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= PROGRESS_EVERY_S or done == total:
            told = now
            store.set(
                "progress", {"done": done, "total": total, "began_ns": began_ns, "at_ns": time.time_ns()}
            )

    return progress


def text(value: Any) -> str | None:
    """A templated field that may be empty: Jinja writes None as text."""
    return None if value in (None, "", "None") else str(value)


def number(value: Any) -> float | None:
    """Raises ValueError for what is no number."""
    found = text(value)
    return None if found is None else float(found)
