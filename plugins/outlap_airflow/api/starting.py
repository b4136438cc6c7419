"""Starting a publish: a run of publish_dataset, whose id comes from the caller's, so that asking twice starts one."""

from __future__ import annotations

import re
import uuid
from contextlib import suppress
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
from lake.config import load_config
from lake.errors import Conflict, NotFound, Refused, StoreDown
from lake.names import check_dataset, check_tag
from outlap_airflow.api.access import PUBLISH
from outlap_airflow.api.models import PublishRequest
from outlap_airflow.settings import DEFAULT_QUERY, airflow_settings
from outlap_airflow.sources import Derive, Query, Split


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
    check_source(asked.source or Query(sql=query))
    return {
        "dataset": asked.dataset,
        "query": query,
        "source": source,
        "tag": asked.tag,
        "announce": asked.announce,
    }


def check_source(source: Any) -> None:
    """Refuse at once what is wrong with a source as far as that can be known without reading what it names.

    A store that does not answer refuses nothing: the run asks again.

    Args:
        source: One of outlap_airflow.sources.

    Raises:
        Refused: a query that is none, shares that are none, a place that may not be read.
        NotFound: a version, or a store, that is not there.
    """
    from lake import catalog, listed, refs
    from lake.split import parse_shares
    from lake.stores import lake_store
    from transforms.derive import parse_size

    config = load_config()
    if isinstance(source, Query):
        catalog.check_query(source.sql)
    elif isinstance(source, Derive | Split):
        if isinstance(source, Split):
            shares = [name for name, _ in parse_shares(source.shares)]
            if source.share not in shares:
                names = ", ".join(shares)
                raise Refused(f"the share {source.share!r}", f"the shares are: {names}", "name one of these")
        else:
            parse_size(source.resize, source.quality, source.aspect)
        with suppress(StoreDown):
            refs.resolve(lake_store(config), *refs.parse(source.of))
    elif source.uri is not None:
        place = listed.prefix_of(source.uri, listed.store_mappings(config.stores))
        allowed = airflow_settings(config).sources
        begins = tuple(f"{name}:" for name in config.stores) if allowed is None else allowed
        where = f"{place.store}:{place.key.strip('/')}/"
        if not any(where.startswith(prefix) for prefix in begins):
            why = f"what may be published from is: {', '.join(begins) or 'nothing'}"
            raise Refused(f"reading {where[:200]}", why, "ask who keeps the settings ([airflow] sources)")


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
