"""Registers what Airflow must know of Outlap. Everything else is in the package outlap_airflow."""

from __future__ import annotations

import sys
from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin
from outlap_airflow import pools
from outlap_airflow.mappers import FanOutIdc
from outlap_airflow.pages.views import views
from outlap_airflow.timetable import TrainingTimetable


def _apps() -> list[dict[str, Any]]:
    """The pages and the publish API, in the API server only: the other processes have no use for FastAPI."""
    if "api-server" not in sys.argv[:2]:
        return []
    from outlap_airflow.api.app import create_app
    from outlap_airflow.pages.app import create_app as create_pages
    from outlap_airflow.pages.views import PREFIX

    # in this order: the first whose prefix fits answers
    return [
        {"app": create_pages(), "url_prefix": PREFIX, "name": "outlap pages"},
        {"app": create_app(), "url_prefix": "/outlap", "name": "outlap"},
    ]


class OutlapPlugin(AirflowPlugin):
    name = "outlap"
    partition_mappers: ClassVar = [FanOutIdc]
    timetables: ClassVar = [TrainingTimetable]
    listeners: ClassVar = [pools]
    fastapi_apps: ClassVar = _apps()
    external_views: ClassVar = views()
