"""The pages in Airflow's navigation: names and addresses, and nothing that costs time to import."""

from __future__ import annotations

from typing import Any

PREFIX = "/outlap/ui"
# name in the URL → title. The order is that of Airflow's menu.
PAGES = {
    "datasets": "Datasets",
    "jobs": "Warm jobs",
    "nodes": "Nodes and residency",
    "sync": "Sync lag",
    "quarantine": "Quarantine",
    "trace": "Way of a version",
}


def views() -> list[dict[str, Any]]:
    """What the plugin registers as external views: a page each, in the menu Plugins ▸ Outlap. Addresses are relative to Airflow's."""
    icons = {"icon": f"{PREFIX}/static/icon.svg", "icon_dark_mode": f"{PREFIX}/static/icon-dark.svg"}
    return [
        {
            "name": title,
            "href": f"{PREFIX.lstrip('/')}/{page}",
            "destination": "nav",
            "category": "Outlap",
            "url_route": f"outlap-{page}",
            **{name: path.lstrip("/") for name, path in icons.items()},
        }
        for page, title in PAGES.items()
    ]
