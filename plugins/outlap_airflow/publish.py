"""Publishing a dataset and announcing it. Plain functions: the operators wrap them."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from lake.config import Config, load_config
from lake.errors import Conflict, Empty, NotFound, Refused
from outlap_airflow.assets import dataset_published, published_key
from outlap_airflow.faults import told
from outlap_airflow.settings import DEFAULT_QUERY, airflow_settings, scratch_folder
from outlap_airflow.sources import Derive, Files, Pickle, Prefix, Query, Split, parse_source

if TYPE_CHECKING:
    from lake import snapshots
    from lake.publish import Published
    from lake.refs import Ref
    from lake.stores import Store
    from lake.tagging import MayLeave

MOST_LIST_BYTES = 256 << 20
log = logging.getLogger(__name__)


@told()
def source_of(query: str | None, source: Any) -> Any:
    """The Source of a run: what `source` says, else the query, else the default query. Raises Refused."""
    if source in (None, "", "None"):
        return Query(sql=query or DEFAULT_QUERY)
    return parse_source(source)


@told(Conflict)
def publish(
    dataset: str, source: Any, tag: str | None, dag_id: str, run_id: str, night: str | None = None
) -> dict[str, Any]:
    """Publish what a Source (or a query, as text) gives; the JSON of Published, idc, parents, and `mine`: this run made the version.

    A run that made a version before and is run again stays with it, whatever the catalogue has learnt since. night: the query is
    asked of the catalogue as that night left it (lake/nights.py), and `latest` never moves back to a night; a query that selects
    nothing of a night yet is skipped (AirflowSkipException), and no failure. Conflict is tried again: someone else published the
    dataset in the same moment.
    """
    from lake.names import check_dataset
    from lake.stores import lake_store

    source = Query(sql=source) if isinstance(source, str) else source
    config = load_config()
    lake = lake_store(config)
    made = _made_by(lake, check_dataset(dataset), dag_id, run_id)
    extra: dict[str, Any] = {"idc": config.idc, "parents": _parents(lake, source)}
    if made is not None:
        return {**asdict(made), "mine": True, **extra}
    origin = {"by": "airflow", "dag": dag_id, "run": run_id, "idc": config.idc}
    among: snapshots.Files | None = None
    may_leave: MayLeave | None = None
    if night is not None:
        found = _of_night(lake, night)
        newer = _published_since(lake, dataset, found)
        if newer is not None:
            return {**asdict(newer), "mine": False, **extra}
        origin["night"], among = night, _catalogue_of(lake, found)
        may_leave = functools.partial(_is_before, night=found)  # asked again when it is moved

    with scratch_folder(config) as scratch:
        try:
            published, more = _publish(config, lake, dataset, source, scratch, origin, tag, among, may_leave)
        except Empty as error:
            if night is None:
                raise
            raise AirflowSkipException(
                f"{dataset} is skipped: its query selects nothing of the night {night} yet ({error.what}: {error.why})"
            ) from error
    for line in published.stays:
        log.warning("%s@%s is published; %s", dataset, published.tag, line)
    mine = _made_by(lake, dataset, dag_id, run_id) is not None
    return {**asdict(published), "mine": mine, **extra, **more}


def _parents(lake: Store, source: Any) -> list[dict[str, str]]:
    """What a derivation or a split is made of: [{dataset, version}]. Raises NotFound."""
    if not isinstance(source, Derive | Split):
        return []
    from lake import refs

    found = refs.resolve(lake, *refs.parse(source.of))
    return [{"dataset": found.dataset, "version": found.version}]


def _publish(
    config: Config,
    lake: Store,
    dataset: str,
    source: Any,
    scratch: Path,
    origin: Mapping[str, Any],
    tag: str | None,
    among: snapshots.Files | None,
    may_leave: MayLeave | None,
) -> tuple[Published, dict[str, Any]]:
    """The version, and what else is to be told: missing and duplicates of a list, left_out of a derivation."""
    if isinstance(source, Query):
        from lake.publish import publish_query

        return publish_query(lake, dataset, source.sql, scratch, origin, tag, among, may_leave), {}
    if isinstance(source, Derive):
        return _derive(config, lake, dataset, source, scratch, origin, tag)
    if isinstance(source, Split):
        from lake import refs
        from lake.split import measure_shares, parse_shares, split_share

        ref, shares = refs.resolve(lake, *refs.parse(source.of)), parse_shares(source.shares)
        made = split_share(lake, ref, shares, source.share, origin, source.by, source.salt, dataset, tag)
        measured = measure_shares(lake, ref.version, shares, by=source.by, salt=source.salt)
        share = next(one for one in measured if one.name == source.share)
        if share.warning:
            log.warning("%s", share.warning)
        return made, {"share": {**asdict(share), "warning": share.warning}}
    return _objects(config, lake, dataset, source, scratch, origin, tag)


def _derive(
    config: Config,
    lake: Store,
    dataset: str,
    source: Derive,
    scratch: Path,
    origin: Mapping[str, Any],
    tag: str | None,
) -> tuple[Published, dict[str, Any]]:
    from lake import refs
    from lake.stores import open_store
    from transforms.derive import derive, parse_size

    done = derive(
        lake,
        refs.resolve(lake, *refs.parse(source.of)),
        dataset,
        parse_size(source.resize, source.quality, source.aspect),
        scratch,
        origin,
        tag,
        skip_bad=source.skip_bad,
        open_named=lambda name: open_store(config.store_named(name), config.idc),
    )
    return done.published, {"left_out": len(done.bad)}


def _objects(
    config: Config,
    lake: Store,
    dataset: str,
    source: Prefix | Files | Pickle,
    scratch: Path,
    origin: Mapping[str, Any],
    tag: str | None,
) -> tuple[Published, dict[str, Any]]:
    """From a prefix or a list of objects: only of stores that the settings allow, never of folders of this machine."""
    from lake import sources
    from lake.stores import open_store

    listed = source if isinstance(source, Files | Pickle) else None
    allowed = airflow_settings(config).sources
    order = sources.Order(
        store=lake,
        dataset=dataset,
        origin=origin,
        scratch=scratch,
        stores=config.stores,
        open_named=lambda name: open_store(config.store_named(name), config.idc),
        tag=tag,
        in_place=source.in_place,
        identity=source.identity,
        skip_missing=listed.skip_missing if listed else False,
        maps=listed.map if listed else (),
        allowed=tuple(f"{name}:" for name in config.stores) if allowed is None else allowed,
    )
    if isinstance(source, Prefix):
        done = sources.publish_prefix(order, source.uri)
    elif isinstance(source, Files):
        lines = source.names or _lines(
            sources.fetch_list(order, source.uri or "", scratch / "list", MOST_LIST_BYTES)
        )
        done = sources.publish_names(order, lines, source.uri or f"{len(lines)} names")
    else:
        local = sources.fetch_list(order, source.uri, scratch / "list.pkl", MOST_LIST_BYTES)
        done = sources.publish_pickle(order, local, source.uri)
    return done.published, {"missing": len(done.missing), "duplicates": len(done.duplicates)}


def _lines(path: Path) -> tuple[str, ...]:
    """Raises Refused for a list that is empty or no text."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise Refused("the list", f"it is not UTF-8: {error.reason}", "write one name a line") from error
    found = tuple(line.strip() for line in lines if line.strip())
    if not found:
        raise Refused("the list", "there is no name in it", "write one name a line")
    return found


def _of_night(lake: Any, name: str) -> Any:
    from lake import nights

    found = nights.read(lake, name)
    if found is None:
        raise NotFound(
            f"the night {name}", "it was not fixed", "run the DAG nightly_incremental of that night"
        )
    return found


def _catalogue_of(lake: Any, night: Any) -> snapshots.Files:
    from lake.snapshots import read_snapshot

    return read_snapshot(lake, night.snapshot)


def _is_since(latest: Ref, night: Any) -> bool:
    """Whether `latest` came to name its version after the night was fixed, and not by the night itself."""
    return bool(latest.moved_ns > night.fixed_ns) and latest.origin.get("night") != night.name


def _is_before(latest: Ref, night: Any) -> bool:
    return not _is_since(latest, night)


def _published_since(lake: Any, dataset: str, night: Any) -> Any:
    """The Published of what `latest` names when it came to name it after the night was fixed; None: the night may move it."""
    from lake import refs
    from lake.publish import Published
    from lake.versions import read_available

    latest = refs.read_ref(lake, dataset, refs.LATEST)
    if latest is None or not _is_since(latest, night):
        return None
    there, shown = read_available(lake, latest.version), refs.resolve(lake, dataset, latest.version)
    log.info("%s@%s was published after the night %s: it stays", dataset, shown.tag, night.name)
    return Published(dataset, shown.tag, latest.version, there.files, there.bytes, 0, 0, False)


def _made_by(lake: Any, dataset: str, dag_id: str, run_id: str) -> Any:
    """The Published of the version that a run made in an earlier try, None when it made none or did not get to the end."""
    from lake import refs
    from lake.publish import Published
    from lake.versions import read_available

    known = refs.list_refs(lake, dataset)
    mine = [ref for ref in known if (ref.origin.get("dag"), ref.origin.get("run")) == (dag_id, run_id)]
    numbered = [ref for ref in mine if refs.NUMBERED.fullmatch(ref.tag)]
    highest = max((int(ref.tag[1:]) for ref in known if refs.NUMBERED.fullmatch(ref.tag)), default=0)
    moved = any(ref.tag == refs.LATEST for ref in mine)
    # the newest number without `latest` on it: the earlier try died between the two, so publishing goes on
    if not numbered or (numbered[0].tag == f"v{highest}" and not moved):
        return None
    ref = numbered[0]
    there = read_available(lake, ref.version)
    return Published(dataset, ref.tag, ref.version, there.files, there.bytes, 0, 0, False)


def worth_announcing(published: Mapping[str, Any], announce: str) -> bool:
    """`always`, or `new`: not for a version that was `latest` before this run. A try that died between publishing and
    announcing still counts as new."""
    return announce == "always" or bool(published["is_new"] or published["mine"])


@told()
def announce(published: Mapping[str, Any], outlet_events: Any) -> str:
    """Give the event of this task its key and its details; the key."""
    key = published_key(published["dataset"], published["version"])
    event = outlet_events[dataset_published]
    names = ("dataset", "tag", "version", "files", "bytes", "is_new", "idc", "parents")
    event.extra = {name: published[name] for name in names if name in published}
    event.add_partitions(key)
    return key
