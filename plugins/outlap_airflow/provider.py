"""What Airflow's provider manager asks of the package: the connection type, its form, and the links of operators.

Found by the entry point `apache_airflow_provider`; nothing of ours is imported until a connection is used.
"""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """As airflow/provider_info.schema.json wants it."""
    return {
        "package-name": "outlap",
        "name": "Outlap",
        "description": "Datasets of drives: ingest, publish, sync, warm, free.",
        "connection-types": [
            {
                "connection-type": "outlap",
                "hook-class-name": "outlap_airflow.hooks.OutlapHook",
                "hook-name": "Outlap",
                "ui-field-behaviour": {
                    "hidden-fields": ["login", "schema", "port", "extra"],
                    "relabeling": {"host": "Control address", "password": "Token"},
                    "placeholders": {"host": "http://control.idc-b:8800"},
                },
                "conn-fields": {
                    "idc": {
                        "label": "IDC",
                        "description": "The IDC that this control service is of, as the settings name it.",
                        "schema": {"type": ["string", "null"]},
                    }
                },
            }
        ],
        "extra-links": [
            "outlap_airflow.links.VersionLink",
            "outlap_airflow.links.JobLink",
            "outlap_airflow.links.TraceLink",
        ],
    }
