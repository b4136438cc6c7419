"""Starting a publish: a run of publish_dataset, whose id comes from the caller's, so that asking twice starts one."""

from __future__ import annotations

import re
import uuid
from typing import Any

from airflow.api.common.trigger_dag import trigger_dag
from airflow.exceptions import DagNotFound, DagRunAlreadyExists, ParamValidationError
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from airflow.utils.types import DagRunTriggeredByType
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from lake.canonical import blake3_hex
from lake.errors import Conflict, NotFound, Refused
from lake.names import check_dataset, check_tag
from outlap_airflow.api.access import PUBLISH
from outlap_airflow.api.models import PublishRequest
from outlap_airflow.settings import DEFAULT_QUERY


def run_id_of(request_id: str | None, key: str | None) -> str:
    """The id of the run: of `request_id`, or of the header Idempotency-Key, any text. Raises Conflict when both differ."""
    if request_id is not None and key is not None and request_id != key:
        raise Conflict(
            "the request", "its request_id and its Idempotency-Key differ", "send one of them, or the same"
        )
    asked = request_id or key
    if asked is None:
        return f"api__{uuid.uuid4()}"
    return (
        f"api__{asked}"
        if re.fullmatch(r"[A-Za-z0-9_.~-]{1,100}", asked)
        else f"api__{blake3_hex(asked.encode())}"
    )


def conf_of(asked: PublishRequest) -> dict[str, Any]:
    """The configuration of the run. Raises Refused."""
    check_dataset(asked.dataset)
    if asked.tag is not None:
        check_tag(asked.tag)
    if not _is_text(asked.model_dump()):
        raise Refused("the request", "a text in it has NUL or half a surrogate pair", "send UTF-8 text")
    source = None if asked.source is None else asked.source.model_dump(mode="json")
    query = asked.query or DEFAULT_QUERY
    return {
        "dataset": asked.dataset,
        "query": query,
        "source": source,
        "tag": asked.tag,
        "announce": asked.announce,
    }


def _is_text(value: Any) -> bool:
    """Whether every database keeps it as text: no NUL, no half of a character."""
    if isinstance(value, dict):
        return all(_is_text(item) for item in value.values())
    if isinstance(value, list | tuple):
        return all(_is_text(item) for item in value)
    return not isinstance(value, str) or not any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value)


def start(run_id: str, conf: dict[str, Any], user_name: str) -> None:
    """Start the run, unless the same request did. Raises Conflict when another request did, or the DAG is paused; NotFound, Refused."""
    with create_session() as session:
        dag = session.scalar(select(DagModel).where(DagModel.dag_id == PUBLISH, ~DagModel.is_stale))
        if dag is None:
            raise NotFound(
                f"the DAG {PUBLISH}", "Airflow has not read it yet, or no more", "see the DAG folder"
            )
        known = session.scalar(select(DagRun).where(DagRun.dag_id == PUBLISH, DagRun.run_id == run_id))
        if known is not None:
            return _same(run_id, known.conf, conf)
        if dag.is_paused:
            raise Conflict(f"the DAG {PUBLISH}", "it is paused, so the run would wait", "unpause it")
    try:
        trigger_dag(
            PUBLISH,
            triggered_by=DagRunTriggeredByType.REST_API,
            triggering_user_name=user_name,
            run_id=run_id,
            conf=conf,
        )
    except (DagRunAlreadyExists, IntegrityError):  # begun by the same request in this moment
        with create_session() as session:
            known = session.scalar(select(DagRun).where(DagRun.dag_id == PUBLISH, DagRun.run_id == run_id))
            return _same(run_id, known.conf if known is not None else None, conf)
    except DagNotFound as error:
        raise NotFound(f"the DAG {PUBLISH}", str(error), "see the DAG folder") from error
    except (ParamValidationError, ValueError) as error:
        raise Refused("the request", str(error)[:1000], "correct it") from error


def _same(run_id: str, known: Any, conf: dict[str, Any]) -> None:
    if known != conf:
        raise Conflict(f"the request id of {run_id}", "another request used it", "choose another")
