"""Alerts: the same trouble is told once until it ends, and told when it has ended. Telling never fails who tells.

    alerts/<hash of the id>.json     {"id", "kind", "title", "since"}: an open trouble, in the lake; put-if-absent, so that of many
                                     who see the same trouble at once one tells it

Without [airflow.alerts] in the settings troubles are told in the log and on the pages.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lake.config import Config, SecretRef, load_config, read_secret
from lake.errors import Explained, NotFound
from outlap_airflow.notifiers import Message, NotTold, notifiers, now_text
from outlap_airflow.settings import AlertSettings, airflow_settings

log = logging.getLogger(__name__)

PREFIX = "alerts/"
MOST_TEXT = 4_000
_USER_INFO = re.compile(r"://[^/@\s]+@")


@dataclass(frozen=True)
class Alert:
    """id: what the trouble is, the same each time it is seen, `<kind>/<where>`; text: cause and next step."""

    id: str
    title: str
    text: str

    @property
    def kind(self) -> str:
        return self.id.split("/", 1)[0]


def tell(alert: Alert, config: Config | None = None) -> bool:
    """Tell a trouble unless it is open already; whether somebody was told now. Never raises."""
    return _safely(lambda config: _tell(config, alert), config, alert.id)


def ended(alert_id: str, text: str = "", config: Config | None = None) -> bool:
    """Tell that a trouble is over, if it was told; whether somebody was told now. Never raises."""
    return _safely(lambda config: _end(config, alert_id, text), config, alert_id)


def settle(seen: Iterable[Alert], kinds: Iterable[str], config: Config | None = None) -> dict[str, list[str]]:
    """Tell what is seen and not open, and end what is open, of these kinds, and not seen: {"told", "ended"} ids. Never raises."""
    found = {alert.id: alert for alert in seen}
    told = [alert.id for alert in found.values() if tell(alert, config)]
    over: list[str] = []

    def close(config: Config) -> bool:
        for alert_id in open_ids(config):
            if (
                alert_id.split("/", 1)[0] in set(kinds)
                and alert_id not in found
                and _end(config, alert_id, "")
            ):
                over.append(alert_id)
        return bool(over)

    _safely(close, config, "the open alerts")
    return {"told": told, "ended": over}


def open_ids(config: Config) -> list[str]:
    """Ids of what is open, sorted. Raises StoreDown."""
    from lake import stores
    from lake.stores import lake_store

    lake = lake_store(config)
    found = []
    for info in stores.list_objects(lake, PREFIX):
        try:
            found.append(str(json.loads(stores.get(lake, info.key))["id"]))
        except (NotFound, ValueError, KeyError):
            continue  # it ended just now, or somebody wrote there
    return sorted(found)


def _safely(work: Any, config: Config | None, what: str) -> bool:
    try:
        return bool(work(config or load_config()))
    except (
        Exception
    ) as error:  # whoever tells has a failure of its own to report: this one is a log line and a metric
        log.error("alert %s: %s", what, scrub(str(error), config))
        _count("failed")
        return False


def _tell(config: Config, alert: Alert) -> bool:
    key = _key(alert.id)
    mark = json.dumps({"id": alert.id, "kind": alert.kind, "title": alert.title, "since": now_text()})
    is_first, is_kept = True, True
    try:
        is_first = _lake_put(config, key, mark)
    except Explained as error:
        is_kept = False  # the lake itself may be the trouble: better told twice than never
        log.warning("alert %s cannot be kept, so it may be told again: %s", alert.id, error)
    if not is_first:
        return False
    told = _send(config, alert.id, alert.title, alert.text, "open")
    if not told and is_kept:
        _lake_delete(config, key)  # nobody knows: whoever sees it next tells it
    return told


def _end(config: Config, alert_id: str, text: str) -> bool:
    from lake import stores
    from lake.stores import lake_store

    try:
        mark = json.loads(stores.get(lake_store(config), _key(alert_id)))
    except NotFound:
        return False
    told = _send(
        config, alert_id, str(mark.get("title", alert_id)), text or f"It began {mark.get('since')}.", "ended"
    )
    if told:
        _lake_delete(config, _key(alert_id))
    return told


def _key(alert_id: str) -> str:
    from lake.canonical import blake3_hex

    return f"{PREFIX}{blake3_hex(alert_id.encode())[:32]}.json"


def _lake_put(config: Config, key: str, mark: str) -> bool:
    from lake import stores
    from lake.stores import lake_store

    return stores.put_if_absent(lake_store(config), key, mark.encode())


def _lake_delete(config: Config, key: str) -> None:
    from lake import stores
    from lake.stores import lake_store

    stores.delete(lake_store(config), key)


def _send(config: Config, alert_id: str, title: str, text: str, state: Any) -> bool:
    """Whether one notifier at least took it."""
    settings = airflow_settings(config).alerts
    clean = [scrub(part, config)[:MOST_TEXT] for part in (alert_id, title, text)]
    message = Message(clean[0], alert_id.split("/", 1)[0], state, clean[1], clean[2], config.idc, now_text())
    told = False
    for name, notify in notifiers(settings).items():
        try:
            notify(message)
            told = True
            _count("sent")
            log.info("alert %s (%s) told by %s", message.id, state, name)
        except (NotTold, NotFound) as error:
            _count("failed")
            log.error("alert %s (%s) could not be told by %s: %s", message.id, state, name, error)
    return told


def _count(what: str) -> None:
    """Airflow's own metrics: outlap.alerts_sent, outlap.alerts_failed (statsd or OpenTelemetry, where it is switched on)."""
    from airflow.sdk._shared.observability.metrics import stats

    stats.incr(f"outlap.alerts_{what}")


def scrub(text: str, config: Config | None) -> str:
    """The text without any secret that the settings name, and without what addresses carry before their host."""
    text = _USER_INFO.sub("://***@", text)
    for reference in _secrets(config) if config is not None else ():
        try:
            secret = read_secret(reference)
        except NotFound:
            continue
        if len(secret) >= 4:
            text = text.replace(secret, "***")
    return text


def _secrets(config: Config) -> list[SecretRef]:
    found = [
        ref for store in config.stores.values() for ref in (store.access_key_id, store.secret_access_key)
    ]
    found += [idc.token for idc in config.idcs.values()]
    settings: AlertSettings = airflow_settings(config).alerts
    if settings.email is not None:
        found.append(settings.email.password)
    if settings.webhook is not None:
        found += [
            settings.webhook.token,
            settings.webhook.url if isinstance(settings.webhook.url, SecretRef) else None,
        ]
    return [ref for ref in found if ref is not None]


# --- who tells: callbacks of the DAGs


def task_id_of(context: Mapping[str, Any]) -> str:
    """The id of the trouble that a task may have: of a warm by dataset and IDC, of any other task by its name."""
    ti, operator = context["ti"], context.get("task")
    if type(operator).__name__ in ("Warm", "WarmInTime"):
        return f"warm-failed/{getattr(operator, 'idc', '')}/{getattr(operator, 'dataset', '')}"
    return f"run-failed/{ti.dag_id}/{ti.task_id}" + (f"/{ti.map_index}" if ti.map_index >= 0 else "")


def task_failed(context: Mapping[str, Any]) -> None:
    """on_failure_callback: the last try of a task has failed."""
    ti, alert_id = context["ti"], task_id_of(context)
    what = f"{ti.dag_id}.{ti.task_id} failed in {ti.run_id}"
    cause = str(context.get("exception") or "see its log")
    tell(
        Alert(
            alert_id,
            what,
            f"{what}.\n{cause}\nNext: see the log of the task, mend the cause, clear the task.",
        )
    )


def task_succeeded(context: Mapping[str, Any]) -> None:
    """on_success_callback: what failed before works again."""
    ti = context["ti"]
    ended(task_id_of(context), f"{ti.dag_id}.{ti.task_id} succeeded in {ti.run_id}.")


async def deadline_missed(context: Any = None, what: str = "") -> None:
    """Callback of Airflow's DeadlineAlert, in the triggerer: the run has not ended in time.

    context: `dag_run` is what the API says of the run (airflow/models/deadline.py).
    """
    run = (context or {}).get("dag_run") or {}
    dag_id, run_id = run.get("dag_id") or "", run.get("dag_run_id") or ""
    title = f"{dag_id} {run_id} has not ended in time".strip()
    text = f"{title}. {what} Next: see the run in Airflow."
    await asyncio.to_thread(tell, Alert(f"deadline/{dag_id}/{run_id}", title, text))


CALLBACKS: dict[str, Any] = {"on_failure_callback": task_failed, "on_success_callback": task_succeeded}
