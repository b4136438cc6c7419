"""One scheduled training: when to warm, where to mount, the command, what to free. Plain functions for the DAG's tasks."""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from lake.config import Config, load_config, read_secret
from lake.errors import NotFound, Refused
from outlap_airflow.faults import told
from outlap_airflow.settings import airflow_settings
from outlap_airflow.train import digest_of
from outlap_airflow.warm import cache_idcs

log = logging.getLogger(__name__)

# Until a node has measured its rate an estimate has no seconds: assume a slow line, as early is cheap and late is not
UNMEASURED_BPS = 50e6
# What a training command may see of our environment: nothing that could be, or lead to, a secret
KEEP_VARIABLES = ("PATH", "HOME", "LANG", "TMPDIR", "TZ", "USER", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
KEEP_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "OMP_", "NCCL_")


def warm_start(train_at: datetime, seconds: float, lead: timedelta) -> datetime:
    """When warming must begin so that it ends `lead` before training, by the upper end of the estimate."""
    return train_at - timedelta(seconds=seconds) - lead


@told()
def plan(params: Mapping[str, Any], run_after: datetime, train_at: datetime | None = None) -> dict[str, Any]:
    """Which version, in which IDC, warm and train from when: fixed once, so that each later task means the same bytes.

    train_at: the training time of a scheduled run; the form's start_at wins. `deadline` is empty when neither is there: then training
    starts as soon as the version is warm, and nothing can be late.
    """
    from cacheengine.client import control_for
    from cacheengine.wire import WarmRequest
    from lake import refs
    from lake.stores import lake_store

    config = load_config()
    if not params["dataset"]:
        raise Refused("this run", "it names no dataset", "fill in the form")
    idcs = cache_idcs(config, params["idc"])
    if len(idcs) != 1:
        raise Refused(
            "the IDC to train in", f"{', '.join(idcs) or 'none'} could be meant", "name it in the form (idc)"
        )
    idc = idcs[0]
    nodes = params["nodes"] or airflow_settings(config).nodes
    found = refs.resolve(lake_store(config, idc), params["dataset"], params["ref"])
    with control_for(config, idc) as control:
        estimate = control.estimate(WarmRequest(dataset=found.dataset, ref=found.version, nodes=nodes))
    missing = max((node.bytes_missing for node in estimate.nodes), default=0)
    likely = estimate.seconds_high if estimate.seconds_high is not None else estimate.seconds
    seconds = likely if likely is not None else missing / UNMEASURED_BPS
    # tasks wait for the scheduler and for workers, too
    seconds += airflow_settings(config).orchestration_s
    deadline = datetime.fromisoformat(params["start_at"]) if params["start_at"] else train_at
    train_at = deadline or run_after
    if train_at.tzinfo is None:
        raise Refused(
            f"start_at {params['start_at']!r}", "it has no offset", "write 2026-01-31T22:00:00+00:00"
        )
    warm_at = warm_start(train_at, seconds, timedelta(minutes=params["lead_minutes"]))
    log.info(
        "%s@%s (%s) in %s: %d of %d bytes missing, about %.0f s; warm from %s, train from %s",
        *(
            found.dataset,
            found.tag,
            found.version[:12],
            idc,
            missing,
            estimate.bytes,
            seconds,
            warm_at,
            train_at,
        ),
    )
    return {
        "request": {"idc": idc, "dataset": found.dataset, "ref": found.version, "nodes": nodes},
        "nodes": nodes,
        "idc": idc,
        "dataset": found.dataset,
        "tag": found.tag,
        "version": found.version,
        "files": estimate.files,
        "bytes": estimate.bytes,
        "estimate_s": seconds,
        "warm_at": warm_at.isoformat(),
        "train_at": train_at.isoformat(),
        "deadline": deadline.isoformat() if deadline is not None else "",
    }


def _agent(config: Config, idc: str, address: str) -> Any:
    from cacheengine.client import AgentClient

    token = config.idc_named(idc).token
    return AgentClient(address, read_secret(token) if token else "")


def warm_nodes(nodes: Any, version: str, percent: float = 100.0) -> list[Any]:
    """The nodes that can train on a version: alive, of role gpu, all its bytes resident and checked. By name.

    percent: below 100, so much of the bytes is enough, checked too; who has most comes first.
    """

    def share(node: Any) -> float:
        """Of the bytes that are resident and checked; 100 only for all of the files."""
        shares: list[float] = [0.0]
        for held in node.versions:
            if held.version == version and held.list_id is None:
                whole = held.state == "resident" and held.files_resident == held.files_total
                some = 100.0 * held.bytes_resident / held.bytes_total if held.bytes_total else 0.0
                shares.append(100.0 if whole else min(some, 99.999))
        return max(shares)

    fitting = [node for node in nodes if node.alive and node.role == "gpu" and share(node) >= percent]
    return sorted(fitting, key=lambda node: (-share(node), node.node))


@told()
def mount(planned: Mapping[str, Any], first_try: bool, percent: float = 100.0) -> dict[str, Any]:
    """Mount the version: on one warm node for a local process, on every warm node where Kubernetes chooses among them.

    percent: how much of it a node must have; what is not resident is read on demand through the view. Returns `target` and
    `nodes` (node, address, target, ours: whether to unmount it afterwards). Raises AirflowException
    (tried again) when no node reports verified residency.
    """
    from cacheengine.client import control_for
    from cacheengine.wire import MountRequest

    config = load_config()
    idc, version = planned["idc"], planned["version"]
    with control_for(config, idc) as control:
        nodes = warm_nodes(control.nodes(), version, percent)
    if not nodes:
        much = "all of it" if percent >= 100 else f"{percent:g} % of it"
        raise AirflowException(
            f"train on {planned['dataset']}@{version[:12]} in {idc}: no live gpu node reports {much} resident and verified. "
            "Next: see `outlap nodes` and `outlap residency`; clear the task `warm`"
        )
    if airflow_settings(config).launcher == "process":
        nodes = nodes[:1]
    mounted = []
    for node in nodes:
        with _agent(config, idc, node.address) as agent:
            before = {report.target for report in agent.mounts()}
            answer = agent.mount(MountRequest(dataset=planned["dataset"], ref=version))
        # a view that someone else mounted before us is not ours to take away
        ours = not (first_try and answer.target in before)
        log.info(
            "%s: %s by %s (%s), %d files", node.node, answer.target, answer.backend, answer.why, answer.files
        )
        mounted.append({"node": node.node, "address": node.address, "target": answer.target, "ours": ours})
    return {"target": mounted[0]["target"], "nodes": mounted}


@told()
def unmount(planned: Mapping[str, Any], mounted: Mapping[str, Any] | None) -> None:
    """Take down the views that `mount` put up; one that is gone is fine."""
    from cacheengine.wire import UmountRequest

    config = load_config()
    for item in (mounted or {"nodes": []})["nodes"]:
        if item["ours"]:
            try:
                with _agent(config, planned["idc"], item["address"]) as agent:
                    agent.umount(UmountRequest(target=item["target"]))
            except NotFound:
                log.info("%s: %s was not mounted any more", item["node"], item["target"])


def command_line(command: str, target: str) -> list[str]:
    """The words of a command with `{mount}` filled in; no shell sees it. Raises Refused."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise Refused(f"the command {command!r}", str(error), "correct the quotes") from error
    if not words:
        raise Refused("the command", "it is empty", "name a program; {mount} stands for the folder")
    return [word.replace("{mount}", target) for word in words]


def clean_environment(planned: Mapping[str, Any], target: str) -> dict[str, str]:
    """What a training command sees: ordinary variables and OUTLAP_MOUNT, OUTLAP_DATASET, OUTLAP_VERSION."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in KEEP_VARIABLES or name.startswith(KEEP_PREFIXES)
    }
    return {
        **kept,
        "OUTLAP_MOUNT": target,
        "OUTLAP_DATASET": planned["dataset"],
        "OUTLAP_VERSION": planned["version"],
    }


def run_command(words: list[str], environment: Mapping[str, str]) -> dict[str, Any] | None:
    """Run a command, its output in our log; its last line of JSON. Raises AirflowException for an exit code."""
    if words[0] == "python":
        words = [sys.executable, *words[1:]]
    told_last = None
    try:
        process = subprocess.Popen(
            words,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise AirflowFailException(f"run {words[0]}: {error.strerror}. Next: correct the command") from error
    try:
        assert process.stdout is not None
        for line in process.stdout:
            log.info("%s", line.rstrip())
            if line.startswith("{"):
                try:
                    told_last = json.loads(line)
                except json.JSONDecodeError:
                    continue  # a line that only looks like it
        code = process.wait()
    finally:
        if process.poll() is None:  # the task is being stopped: so is what it started
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=30)
    if code:
        raise AirflowException(f"{' '.join(words)}: exit code {code}. Next: see its output above")
    return told_last if isinstance(told_last, dict) else None


@told()
def still_warm(
    planned: Mapping[str, Any], mounted: Mapping[str, Any], percent: float = 100.0
) -> dict[str, Any]:
    """What of `mounted` a retry can use: the same nodes, less those that are not warm any more. No nodes: none of them is."""
    from cacheengine.client import control_for

    with control_for(load_config(), planned["idc"]) as control:
        warm = {node.node for node in warm_nodes(control.nodes(), planned["version"], percent)}
    kept = [item for item in mounted["nodes"] if item["node"] in warm]
    return {**mounted, "nodes": kept, "target": kept[0]["target"] if kept else mounted["target"]}


def train_again(
    planned: Mapping[str, Any], mounted: Mapping[str, Any], command: str, percent: float
) -> dict[str, Any]:
    """A retry: on the node of the first try while that is warm, else on another that is, whose view goes with it."""
    kept = still_warm(planned, mounted, percent)
    if kept["nodes"]:
        log.info("again on %s, which is still warm", kept["nodes"][0]["node"])
        return train(planned, kept, command)
    moved = mount(planned, True, percent)
    log.warning(
        "%s is not warm any more; again on %s", mounted["nodes"][0]["node"], moved["nodes"][0]["node"]
    )
    try:
        return train(planned, moved, command)
    finally:
        unmount(planned, moved)


@told()
def train(planned: Mapping[str, Any], mounted: Mapping[str, Any], command: str) -> dict[str, Any]:
    """Run the command here. When it tells frames and digest (as outlap_airflow.train does), they must be the version's.

    Raises AirflowFailException when what was read is not what was published.
    """
    from lake.stores import lake_store

    words = command_line(command, mounted["target"])
    result = run_command(words, clean_environment(planned, mounted["target"])) or {}
    if "digest" in result:
        frames, digest = published_digest(lake_store(load_config(), planned["idc"]), planned["version"])
        if (result.get("frames"), result["digest"]) != (frames, digest):
            raise AirflowFailException(
                f"train on {planned['dataset']}@{planned['version'][:12]}: what was read below {mounted['target']} is not what "
                f"was published ({result.get('frames')} of {frames} files, digest {result['digest'][:12]} for {digest[:12]}). "
                "Next: `outlap verify` the version, and keep the node as it is"
            )
        result["verified"] = True
    log.info("trained on %s@%s: %s", planned["dataset"], planned["tag"], result)
    return result


def published_digest(store: Any, version: str) -> tuple[int, str]:
    """Files and digest of a version by its manifest, to compare with what a reader saw."""
    from lake.versions import rows

    count = 0

    def pairs() -> Any:
        nonlocal count
        for part in rows(store, version):
            count += part.num_rows
            for path, content_id in zip(
                part["path"].to_pylist(), part["content_id"].to_pylist(), strict=True
            ):
                yield path.encode(), content_id

    digest = digest_of(pairs())
    return count, digest


@told()
def what_to_free(planned: Mapping[str, Any], policy: str) -> list[dict[str, Any]]:
    """Requests to free, by policy: `never` none; `after` this version; `keep-latest` every version of the dataset that a
    node holds but the latest, unless someone has it mounted. What somebody pinned stays, and that is logged."""
    from cacheengine.client import control_for
    from lake import refs
    from lake.stores import lake_store

    dataset, idc = planned["dataset"], planned["idc"]
    if policy == "never":
        return []
    config = load_config()
    with control_for(config, idc) as control:
        nodes = control.nodes(dataset)
    pinned = {
        item.version: f"on {node.node} by {item.pinned_by or 'somebody'}"
        for node in nodes
        for item in node.versions
        if item.pinned
    }
    if policy == "after":
        if planned["version"] in pinned:
            _stays(planned, planned["version"], pinned)
            return []
        return [dict(planned["request"])]
    latest = refs.resolve(lake_store(config, idc), dataset).version
    held = {item.version for node in nodes for item in node.versions if item.dataset == dataset}
    in_use = {item.version for node in nodes for item in node.mounts}
    old = held - in_use - {latest}
    for version in sorted(old & pinned.keys()):
        _stays(planned, version, pinned)
    return [{**planned["request"], "ref": version} for version in sorted(old - pinned.keys())]


def _stays(planned: Mapping[str, Any], version: str, pinned: Mapping[str, str]) -> None:
    log.warning(
        "%s@%s is not freed: it is pinned %s (`outlap unpin` lets it go)",
        planned["dataset"],
        version[:12],
        pinned[version],
    )
