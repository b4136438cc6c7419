"""What the API takes and gives. Sizes are bytes, times integer nanoseconds since the Unix epoch (`*_ns`), durations seconds (`*_s`)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from outlap_airflow.sources import Source

RUN_ID = r"^[A-Za-z0-9_.~:+-]{1,250}$"
REF = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
DATASET = r"^[a-z0-9][a-z0-9._-]{0,99}$"
_VERSION = "8f3c2a" + "0" * 58

DatasetName = Annotated[str, Field(pattern=DATASET, examples=["front"])]


class PublishRequest(BaseModel):
    """What to publish: `query`, or another `source`; neither: every 720p frame. `request_id`: the same id twice is the same run."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "dataset": "front",
                    "query": "select * from frames where channel = 'CAM_FRONT'",
                    "request_id": "night-17",
                },
                {
                    "dataset": "labels",
                    "source": {"kind": "prefix", "uri": "old:labels/"},
                    "tag": "reviewed",
                },
                {"dataset": "front-360", "source": {"kind": "derive", "of": "front@v3", "resize": "640x360"}},
            ]
        },
    )
    dataset: DatasetName
    query: str | None = Field(default=None, min_length=1, max_length=100_000)
    source: Source | None = None
    tag: str | None = Field(default=None, pattern=REF, examples=["reviewed"])
    announce: Literal["always", "new"] = "always"
    request_id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.~-]{1,100}$", examples=["night-17"])

    @model_validator(mode="after")
    def _one(self) -> PublishRequest:
        if self.query is not None and self.source is not None:
            raise ValueError("give query or source, not both")
        return self


class PublishRun(BaseModel):
    """A publish as a run of Airflow. state: queued, running, success or failed. What follows is filled once the version is there."""

    run_id: str = Field(examples=["api__night-17"])
    dataset: str = Field(examples=["front"])
    state: str = Field(examples=["running"])
    at_ns: int | None = Field(default=None, examples=[1_790_000_000_000_000_000])
    tag: str | None = Field(default=None, examples=["v4"])
    version: str | None = Field(default=None, examples=[_VERSION])
    files: int | None = Field(default=None, examples=[12_000])
    bytes: int | None = Field(default=None, examples=[1_440_000_000])
    is_new: bool | None = None


class PublishRuns(BaseModel):
    """Newest first."""

    runs: list[PublishRun]


class Step(BaseModel):
    """A sync or a warm that followed. state: of its run (waiting: there is none yet); job, files: of the cache group's job.

    done and total: bytes. eta_s: seconds until it ends, None while nobody can tell. error: why it failed, or why nothing is known.
    """

    run_id: str | None = Field(default=None, examples=["asset_triggered__2026-01-02T02:00:07+00:00_x"])
    state: Literal["waiting", "queued", "running", "success", "failed"] = "waiting"
    job: str | None = Field(default=None, examples=["0f3a9b17c2d4e6f8"])
    job_state: str | None = Field(default=None, examples=["running"])
    files_done: int | None = None
    files_total: int | None = None
    bytes_done: int | None = None
    bytes_total: int | None = None
    rate_bps: float | None = None
    eta_s: float | None = None
    error: str | None = None


class IdcStatus(BaseModel):
    """One destination. warm: None where the IDC has no cache group."""

    idc: str = Field(examples=["idc-b"])
    sync: Step
    warm: Step | None = None


Stage = Literal["queued", "publishing", "syncing", "warming", "done", "failed", "cancelled"]


class PublishStatus(PublishRun):
    """A publish through sync and warm. stage: the first thing that is not done; done: warm wherever it is to be.

    eta_s: until the slowest that runs now ends. error: what failed first. A publish that found nothing new is done at once.
    """

    stage: Stage
    eta_s: float | None = None
    error: str | None = None
    cancelled_by: str | None = None
    idcs: list[IdcStatus] = []


class DatasetRow(BaseModel):
    """A dataset and its newest version."""

    dataset: str = Field(examples=["front"])
    tag: str | None = Field(default=None, examples=["v4"])
    version: str | None = Field(default=None, examples=[_VERSION])
    at_ns: int | None = None


class Datasets(BaseModel):
    """By name. next: `after` of the next page, None on the last."""

    datasets: list[DatasetRow]
    next: str | None = None


class VersionRow(BaseModel):
    """tags: all that name it now. made_by: what published it."""

    version: str = Field(examples=[_VERSION])
    tags: list[str] = Field(examples=[["v4", "latest"]])
    at_ns: int
    made_by: str = Field(examples=["airflow publish_dataset api__night-17"])


class Versions(BaseModel):
    """Newest first. next: `before` of the next page, None on the last."""

    dataset: str
    versions: list[VersionRow]
    next: int | None = None


class Availability(BaseModel):
    """available: None when the store could not be asked; problem says why."""

    idc: str = Field(examples=["idc-b"])
    available: bool | None
    problem: str | None = None


class VersionShown(VersionRow):
    """origin: what made it (query, catalogue snapshot, source, who). drives: how many, None where no summary lies beside it."""

    dataset: str
    files: int
    bytes: int
    parts: int
    identity: str = Field(examples=["content"])
    columns: dict[str, str] = Field(examples=[{"path": "string", "content_id": "string", "size": "int64"}])
    origin: dict[str, Any]
    drives: int | None = None
    idcs: list[Availability]


class VersionRun(BaseModel):
    """A run of Airflow that did something with a version. idc: of a sync, a warm, a training; nodes: that trained."""

    step: Literal["publish", "sync", "warm", "train"]
    dag: str = Field(examples=["scheduled_training"])
    run_id: str = Field(examples=["manual__2026-01-02T02:00:00+00:00"])
    state: str = Field(examples=["success"])
    dataset: str = Field(examples=["front"])
    version: str = Field(examples=[_VERSION])
    idc: str | None = None
    at_ns: int
    nodes: list[str] | None = None


class VersionRuns(BaseModel):
    """Oldest first."""

    runs: list[VersionRun]


class DiffLine(BaseModel):
    """A line of a diff. The last has kind `summary`, with the counts and whether paths were left out, or `error`."""

    kind: Literal["added", "removed", "changed", "summary", "error"]
    path: str | None = None
    size: int | None = None
