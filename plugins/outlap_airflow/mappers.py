"""From a published version to one run per destination IDC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.partition_mappers.base import PartitionMapper

from lake.config import load_config
from outlap_airflow.assets import synced_key
from outlap_airflow.settings import destinations


class FanOutIdc(PartitionMapper):
    """`<dataset>@<version>` → `<dataset>@<version>|<idc>` for each destination IDC.

    `idcs` fixes the destinations. Without it the settings name them at the moment of mapping, so
    that a new IDC needs no new DAG version. It runs where events are registered: in the API server.
    """

    def __init__(self, idcs: Sequence[str] | None = None, *, max_downstream_keys: int | None = None) -> None:
        super().__init__(max_downstream_keys=max_downstream_keys)
        self.idcs = None if idcs is None else tuple(idcs)

    def to_downstream(self, key: str) -> list[str]:
        """Raises Refused for a key that is no published version (Airflow notes it in its audit log)."""
        idcs = destinations(load_config()) if self.idcs is None else self.idcs
        return [synced_key(key, idc) for idc in idcs]

    def serialize(self) -> dict[str, Any]:
        return {**super().serialize(), "idcs": None if self.idcs is None else list(self.idcs)}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> FanOutIdc:
        return cls(data.get("idcs"), max_downstream_keys=data.get("max_downstream_keys"))
