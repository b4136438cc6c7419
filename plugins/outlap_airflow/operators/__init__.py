"""Operators: Ingest, Publish, Announce and Sync do the work in their worker; Warm and Free wait for the cache group without one; RunDag
waits for another DAG.

Importing this opens nothing: DAG files do it each time they are parsed.
"""

from outlap_airflow.operators.cache import Free, Warm
from outlap_airflow.operators.lake import Announce, Ingest, Publish, Sync
from outlap_airflow.operators.runs import RunDag
from outlap_airflow.operators.wait import WaitUntil

__all__ = ["Announce", "Free", "Ingest", "Publish", "RunDag", "Sync", "WaitUntil", "Warm"]
