"""The section [airflow] of outlap.toml (or OUTLAP_AIRFLOW_* variables; lists there as JSON).

[airflow]
nightly = "0 2 * * *"                 # when the nightly DAG runs, in…
timezone = "Europe/Berlin"            # default: midnight, UTC
destinations = ["idc-b"]              # default: every IDC but ours
nodes = "all"                         # which nodes a version is warmed on
launcher = "process"                  # or "kubernetes" (a pod), "kubernetes-job": where training commands run
[airflow.alerts.webhook]              # see docs/airflow.md
url = { file = "/run/secrets/webhook" }
[[airflow.datasets]]                  # what the nightly DAG publishes again
name = "front"
query = "select * from frames where output = '720p' and channel = 'CAM_FRONT'"
[[airflow.trainings]]                 # a DAG train_<name>; every key: class Training
name = "night"
dataset = "front"
cron = "0 6 * * *"
timezone = "Europe/Berlin"
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, field_validator

from lake.config import Config, SecretRef

DEFAULT_COMMAND = "python -m outlap_airflow.train {mount}"
DEFAULT_QUERY = "select * from frames where output = '720p'"


class DatasetQuery(BaseModel):
    """A dataset that the nightly DAG keeps up to date."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    query: str = DEFAULT_QUERY


class EmailSettings(BaseModel):
    """A mail server and who gets the mail. password: where it is kept, never what it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    host: str
    port: int = Field(default=25, ge=1, le=65535)
    sender: str
    to: tuple[str, ...] = Field(min_length=1)
    starttls: bool = False
    user: str | None = None
    password: SecretRef | None = None


class WebhookSettings(BaseModel):
    """url: as text, or where it is kept (many of them are secrets); token: sent as `Authorization: Bearer`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    url: SecretRef | str
    token: SecretRef | None = None
    timeout_s: float = Field(default=10.0, gt=0, le=60)


class AlertSettings(BaseModel):
    """[airflow.alerts]: whom to tell, and from where on the DAG `watch` tells.

    quarantine_percent: of the drives of a day, of five at least; sync_lag_minutes: that a published version may lack in an IDC.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    email: EmailSettings | None = None
    webhook: WebhookSettings | None = None
    quarantine_percent: float = Field(default=20.0, gt=0, le=100)
    sync_lag_minutes: float = Field(default=120.0, gt=0)
    watch: str = "*/10 * * * *"

    @field_validator("watch")
    @classmethod
    def _is_cron(cls, value: str) -> str:
        return checked_cron(value)


class Training(BaseModel):
    """[[airflow.trainings]]: a DAG `train_<name>` that trains at the times of `cron`.

    lead_hours: how long before a training time its run starts, so the longest warm-up that can be in time. margin_minutes: how long
    before it the version is to be warm, on top of the estimate. min_resident_percent: below 100, training starts in time with so much
    of the bytes resident on a node, and reads the rest on demand. priority: -100 to 100, against other warms and trainings.
    ends_within_hours: after the training time; Airflow tells when a run takes longer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,60}$")
    dataset: str
    cron: str
    timezone: str = "UTC"
    ref: str = "latest"
    idc: str | None = None
    nodes: str | None = None
    command: str = DEFAULT_COMMAND
    lead_hours: float = Field(default=6.0, gt=0, le=168)
    margin_minutes: float = Field(default=5.0, ge=0)
    min_resident_percent: float = Field(default=100.0, gt=0, le=100)
    priority: int = Field(default=0, ge=-100, le=100)
    free: Literal["never", "after", "keep-latest"] = "never"
    ends_within_hours: float = Field(default=24.0, gt=0)

    @field_validator("timezone")
    @classmethod
    def _is_timezone(cls, value: str) -> str:
        return checked_timezone(value)

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, value: str) -> str:
        return checked_cron(value)


class AirflowSettings(BaseModel):
    """`link_slots`: how many syncs may run at once from one IDC to another; `training_slots`: how many trainings. `sources`:
    `STORE:PREFIX` beginnings of what may be published from (default: every store of the settings). `defer`: false for workers of
    an IDC whose control service no triggerer reaches; Warm and Free hold their worker there. `orchestration_s`: what Airflow itself
    takes from a warm that is done to a training that runs; it is added to the estimate.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    destinations: tuple[str, ...] | None = None
    datasets: tuple[DatasetQuery, ...] = ()
    trainings: tuple[Training, ...] = ()
    training_slots: int = Field(default=16, ge=1)
    sources: tuple[str, ...] | None = None
    nightly: str = "0 0 * * *"
    timezone: str = "UTC"
    nodes: str = "all"
    link_slots: int = Field(default=2, ge=1)
    scratch: Path | None = None
    defer: bool = True
    orchestration_s: float = Field(default=30.0, ge=0, le=3600)
    launcher: Literal["process", "kubernetes", "kubernetes-job"] = "process"
    image: str = "outlap-airflow:latest"
    namespace: str = "outlap"
    kubernetes_conn_id: str | None = None
    alerts: AlertSettings = AlertSettings()

    @field_validator("timezone")
    @classmethod
    def _is_timezone(cls, value: str) -> str:
        return checked_timezone(value)

    @field_validator("nightly")
    @classmethod
    def _is_cron(cls, value: str) -> str:
        return checked_cron(value)

    @field_validator("destinations", "datasets", "sources", "alerts", "trainings", mode="before")
    @classmethod
    def _from_variable(cls, value: Any) -> Any:
        """A variable holds text: JSON."""
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"not JSON: {error}") from None


def checked_timezone(value: str) -> str:
    """Raises ValueError."""
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError):
        raise ValueError("no time zone has this name; one reads like Europe/Berlin") from None
    return value


def checked_cron(value: str) -> str:
    """Five fields of cron. Raises ValueError."""
    from croniter import croniter

    if len(value.split()) != 5 or not croniter.is_valid(value):
        raise ValueError("it is no cron expression of five fields, such as 0 2 * * *")
    return value


def airflow_settings(config: Config) -> AirflowSettings:
    """Raises Refused for settings that are wrong."""
    return config.section("airflow", AirflowSettings)


def destinations(config: Config) -> tuple[str, ...]:
    """The IDCs that a version published here is synced to. Raises NotFound for one that is not described."""
    chosen = airflow_settings(config).destinations
    if chosen is None:
        return tuple(sorted(name for name in config.idcs if name != config.idc))
    return tuple(config.idc_named(name).name for name in chosen)


@contextmanager
def scratch_folder(config: Config) -> Iterator[Path]:
    """An empty folder for one task, removed after it."""
    base = airflow_settings(config).scratch or config.home / "scratch"
    base.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=base, prefix="task-") as name:
        yield Path(name)
