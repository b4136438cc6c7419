"""Settings of sync: `[sync]` in outlap.toml, or OUTLAP_SYNC_*."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class SyncSettings(BaseModel):
    """How long a sync waits for a link, and how long it believes a verification."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    link_wait_minutes: float = Field(
        default=10.0,
        ge=0,
        description="How long a request is tried again while a store does not answer, in minutes",
    )
    verified_hours: float = Field(
        default=24.0,
        ge=0,
        description="How old an `outlap verify` of the dataset at the target may be so that what it read is not asked for, in hours",
    )
