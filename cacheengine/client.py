"""Clients of the control service and of a node's agent, for the CLI and Airflow.

Every error of the other side comes back as the exception it was there; one that does not answer is ControlDown.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter, ValidationError

from cacheengine.answers import error_from
from cacheengine.errors import CacheError, ControlDown
from cacheengine.wire import (
    Desired,
    DesiredVersion,
    Estimate,
    FreeRequest,
    Group,
    GroupAnswer,
    Heartbeat,
    HeartbeatReply,
    Job,
    LinkBudget,
    MountAnswer,
    MountReport,
    MountRequest,
    NodeState,
    PinRequest,
    RevertRequest,
    Setting,
    SettingChange,
    SettingRequest,
    TokenAnswer,
    TokenRequest,
    Trace,
    TraceRequest,
    UmountAnswer,
    UmountRequest,
    VersionReport,
    WarmRequest,
    Wire,
)
from lake.config import Config, read_secret
from lake.errors import NotFound

ENDED = ("done", "failed", "cancelled")
TIMEOUT_S = 30.0
WAIT_S = 20.0
MOUNT_TIMEOUT_S = 600.0
_FIX = "check that it runs (`outlap status`), and that the settings name the right address"
_JOBS = TypeAdapter(list[Job])
_NODES = TypeAdapter(list[NodeState])
_DESIRED = TypeAdapter(list[Desired])
_TOKENS = TypeAdapter(list[TokenAnswer])
_MOUNTS = TypeAdapter(list[MountReport])
_SETTINGS = TypeAdapter(list[Setting])
_CHANGES = TypeAdapter(list[SettingChange])
_VERSIONS = TypeAdapter(list[VersionReport])


class _Http:
    """JSON over HTTP with a bearer token, and our errors. Proxies of the environment are not used: peers are near."""

    def __init__(self, what: str, url: str, token: str | None) -> None:
        self.what = what
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")
        # retries: of connecting only, so nothing is asked twice
        verify = ssl.create_default_context() if self.url.startswith("https://") else False
        self._client = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=TIMEOUT_S,
            trust_env=False,
            transport=httpx.HTTPTransport(retries=2, verify=verify, trust_env=False),
        )

    def ask(
        self,
        method: str,
        path: str,
        message: Wire | None = None,
        timeout_s: float = TIMEOUT_S,
        **query: object,
    ) -> bytes:
        """The body of the answer. Raises ControlDown, and whatever the other side raised."""
        try:
            answer = self._client.request(
                method,
                path,
                content=None if message is None else message.model_dump_json(),
                headers={} if message is None else {"Content-Type": "application/json"},
                params={key: str(value) for key, value in query.items() if value is not None},
                timeout=timeout_s,
            )
        except httpx.TransportError as error:
            why = str(error) or type(error).__name__
            raise ControlDown(f"{self.what} at {self.url}", f"it does not answer: {why}", _FIX) from error
        if answer.status_code >= 300:
            raise error_from(
                answer.status_code, answer.content, f"{method} {path} of {self.what} at {self.url}"
            )
        return answer.content

    def read(self, kind: TypeAdapter[Any], body: bytes) -> Any:
        try:
            return kind.validate_json(body, extra="ignore")  # a newer service says more
        except ValidationError as error:
            cause = f"its answer is not what this Outlap expects: {error.error_count()} faults"
            raise CacheError(
                f"{self.what} at {self.url}", cause, "run the same Outlap on both sides"
            ) from error

    def close(self) -> None:
        self._client.close()


def _part(name: str) -> str:
    """A name as one part of a URL; `..` would be taken away by whoever normalises the path."""
    return quote(name, safe="") if name.strip(".") else name.replace(".", "%2E")


class Control:
    """The control service of one IDC. Use as a context manager, or `close`. `token` is kept in memory only."""

    def __init__(self, url: str, token: str | None) -> None:
        self._http = _Http("the control service", url, token)
        self._token = token
        self.url = self._http.url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def _job(self, body: bytes) -> Job:
        return self._http.read(TypeAdapter(Job), body)  # type: ignore[no-any-return]

    def healthy(self) -> bool:
        """Whether it answers and finds nothing wrong with itself."""
        try:
            self._http.ask("GET", "/healthz", timeout_s=5.0)
        except CacheError:
            return False
        return True

    def warm(self, request: WarmRequest) -> Job:
        return self._job(self._http.ask("POST", "/v1/warm", request, timeout_s=300.0))

    def free(self, request: FreeRequest) -> Job:
        return self._job(self._http.ask("POST", "/v1/free", request, timeout_s=300.0))

    def estimate(self, request: WarmRequest) -> Estimate:
        body = self._http.ask("POST", "/v1/estimate", request, timeout_s=300.0)
        return self._http.read(TypeAdapter(Estimate), body)  # type: ignore[no-any-return]

    def job(self, job_id: str, wait_s: float = 0.0) -> Job:
        """The job as of now, or once it has ended within `wait_s` (the service bounds it)."""
        path = f"/v1/jobs/{_part(job_id)}"
        return self._job(self._http.ask("GET", path, timeout_s=wait_s + TIMEOUT_S, wait_s=wait_s))

    def wait(
        self,
        job_id: str,
        progress: Callable[[Job], None] | None = None,
        timeout_s: float | None = None,
        step_s: float = 1.0,
    ) -> Job:
        """The job once it has ended, or as it is after `timeout_s`. `progress` hears of it about every `step_s`.

        A control service that is away for less than a minute is waited for.
        """
        end = None if timeout_s is None else time.monotonic() + timeout_s
        answered = time.monotonic()
        while True:
            left = step_s if end is None else min(step_s, max(0.0, end - time.monotonic()))
            try:
                job = self.job(job_id, left if progress else min(WAIT_S, left * 20))
            except ControlDown:
                if time.monotonic() - answered > 60.0:
                    raise
                time.sleep(step_s)
                continue
            answered = time.monotonic()
            if progress is not None:
                progress(job)
            if job.state in ENDED or (end is not None and time.monotonic() >= end):
                return job

    def jobs(self, limit: int = 100, brief: bool = False) -> list[Job]:
        """Newest first; brief: without what each node says."""
        body = self._http.ask("GET", "/v1/jobs", limit=limit, brief=brief or None)
        return self._http.read(_JOBS, body)  # type: ignore[no-any-return]

    def cancel(self, job_id: str) -> Job:
        """End a warm. Raises NotFound, Conflict when it has ended or is a free."""
        return self._job(self._http.ask("POST", f"/v1/jobs/{_part(job_id)}/cancel"))

    def resume(self, job_id: str) -> Job:
        """A new job that goes on with a warm that failed or was cancelled. Raises NotFound, Conflict."""
        return self._job(self._http.ask("POST", f"/v1/jobs/{_part(job_id)}/resume", timeout_s=300.0))

    def pin(self, request: PinRequest) -> list[Desired]:
        return self._http.read(_DESIRED, self._http.ask("POST", "/v1/pin", request))  # type: ignore[no-any-return]

    def unpin(self, request: PinRequest) -> list[Desired]:
        return self._http.read(_DESIRED, self._http.ask("POST", "/v1/unpin", request))  # type: ignore[no-any-return]

    def nodes(self, dataset: str | None = None, brief: bool = False) -> list[NodeState]:
        """Every node; brief: without versions, dataset: with those of this one only."""
        body = self._http.ask("GET", "/v1/nodes", dataset=dataset, brief=brief or None)
        return self._http.read(_NODES, body)  # type: ignore[no-any-return]

    def settings(self) -> list[Setting]:
        return self._http.read(_SETTINGS, self._http.ask("GET", "/v1/config"))  # type: ignore[no-any-return]

    def change_setting(self, request: SettingRequest) -> SettingChange:
        body = self._http.ask("POST", "/v1/config", request)
        return self._http.read(TypeAdapter(SettingChange), body)  # type: ignore[no-any-return]

    def setting_history(self, key: str | None = None, limit: int = 100) -> list[SettingChange]:
        """Newest first."""
        body = self._http.ask("GET", "/v1/config/history", key=key, limit=limit)
        return self._http.read(_CHANGES, body)  # type: ignore[no-any-return]

    def revert_setting(self, request: RevertRequest) -> SettingChange:
        body = self._http.ask("POST", "/v1/config/revert", request)
        return self._http.read(TypeAdapter(SettingChange), body)  # type: ignore[no-any-return]

    def link_budget(self, source: str, target: str, sync: str = "") -> LinkBudget:
        """What a sync may send from one IDC to another; to be asked again within `valid_s`."""
        path = f"/v1/links/{_part(source)}/{_part(target)}/budget"
        return self._http.read(TypeAdapter(LinkBudget), self._http.ask("GET", path, sync=sync))  # type: ignore[no-any-return]

    def forget_node(self, node: str) -> None:
        self._http.ask("DELETE", f"/v1/nodes/{_part(node)}")

    def heartbeat(self, heartbeat: Heartbeat) -> HeartbeatReply:
        body = self._http.ask("POST", f"/v1/nodes/{_part(heartbeat.node)}/heartbeat", heartbeat)
        return self._http.read(TypeAdapter(HeartbeatReply), body)  # type: ignore[no-any-return]

    def desired(self, node: str, generation: int = -1, wait_s: float = 0.0) -> Desired:
        """What a node should hold; waits up to `wait_s` for another generation than the one given."""
        found = self.next_desired(node, generation, wait_s) if wait_s > 0 else None
        return found if found is not None else self._desired(node, -1, 0.0)[0]

    def next_desired(self, node: str, generation: int, wait_s: float) -> Desired | None:
        """What a node should hold, once it is another generation than this; None when it is not within `wait_s`."""
        found = self._desired(node, generation, wait_s)
        return found[0] if found else None

    def _desired(self, node: str, generation: int, wait_s: float) -> list[Desired]:
        path = f"/v1/nodes/{_part(node)}/desired"
        timeout_s = wait_s + TIMEOUT_S
        body = self._http.ask("GET", path, timeout_s=timeout_s, generation=generation, wait_s=wait_s)
        return [self._http.read(TypeAdapter(Desired), body)] if body else []

    def group(self, revision: int = -1, wait_s: float = 0.0, timeout_s: float = TIMEOUT_S) -> GroupAnswer:
        """The cache group; waits up to `wait_s` for another revision than the one given."""
        body = self._http.ask(
            "GET", "/v1/group", timeout_s=wait_s + timeout_s, revision=revision, wait_s=wait_s
        )
        return self._http.read(TypeAdapter(GroupAnswer), body)  # type: ignore[no-any-return]

    def members(self) -> Group:
        """The cache group as it is, without the secret of its members."""
        return self._http.read(TypeAdapter(Group), self._http.ask("GET", "/v1/members"))  # type: ignore[no-any-return]

    def drain(self, node: str) -> None:
        """Let a node hand over its shares; it serves until others hold them. Raises NotFound."""
        self._http.ask("POST", f"/v1/nodes/{_part(node)}/drain")

    def undrain(self, node: str) -> None:
        """Let a node have shares again. Raises NotFound."""
        self._http.ask("DELETE", f"/v1/nodes/{_part(node)}/drain")

    def file_list(self, wanted: DesiredVersion) -> list[str] | None:
        """The paths that a desired version is narrowed to; None for the whole version."""
        if wanted.list_id is None:
            return None
        body = self._http.ask("GET", f"/v1/lists/{_part(wanted.list_id)}", timeout_s=300.0)
        return list(self._http.read(TypeAdapter(dict[str, list[str]]), body)["paths"])

    def tokens(self) -> list[TokenAnswer]:
        return self._http.read(_TOKENS, self._http.ask("GET", "/v1/tokens"))  # type: ignore[no-any-return]

    def create_token(self, request: TokenRequest) -> TokenAnswer:
        """The answer's `token` is shown this once."""
        body = self._http.ask("POST", "/v1/tokens", request)
        return self._http.read(TypeAdapter(TokenAnswer), body)  # type: ignore[no-any-return]

    def delete_token(self, name: str) -> None:
        self._http.ask("DELETE", f"/v1/tokens/{_part(name)}")

    def agent(self, node: str) -> AgentClient:
        """The agent of a node that this control service knows. Raises NotFound."""
        known = {state.node: state.address for state in self.nodes()}
        if node not in known:
            names = ", ".join(sorted(known)) or "none"
            raise NotFound(f"the node {node!r}", f"{self.url} knows: {names}", "name one of these")
        return AgentClient(known[node], self._token)

    def mount(self, node_address: str, request: MountRequest) -> MountAnswer:
        """Ask the agent at that address for a view."""
        agent = AgentClient(node_address, self._token)
        try:
            return agent.mount(request)
        finally:
            agent.close()


class AgentClient:
    """The agent of one node, at HOST:PORT or a URL."""

    def __init__(self, address: str, token: str | None) -> None:
        self._http = _Http("the agent", address, token)
        self.url = self._http.url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def healthy(self) -> bool:
        """Whether it answers and finds nothing wrong with itself."""
        try:
            self._http.ask("GET", "/healthz", timeout_s=5.0)
        except CacheError:
            return False
        return True

    def residency(self) -> list[VersionReport]:
        """What the node really holds."""
        return self._http.read(_VERSIONS, self._http.ask("GET", "/v1/residency"))  # type: ignore[no-any-return]

    def mounts(self) -> list[MountReport]:
        return self._http.read(_MOUNTS, self._http.ask("GET", "/v1/mounts"))  # type: ignore[no-any-return]

    def mount(self, request: MountRequest) -> MountAnswer:
        body = self._http.ask("POST", "/v1/mounts", request, timeout_s=MOUNT_TIMEOUT_S)
        return self._http.read(TypeAdapter(MountAnswer), body)  # type: ignore[no-any-return]

    def trace(self, request: TraceRequest) -> Trace:
        """Read a file of a view on the node. Raises NotFound."""
        body = self._http.ask("POST", "/v1/trace", request, timeout_s=MOUNT_TIMEOUT_S)
        return self._http.read(TypeAdapter(Trace), body)  # type: ignore[no-any-return]

    def umount(self, request: UmountRequest) -> UmountAnswer:
        """Take a view down; says whether it is still read elsewhere. Raises NotFound, Busy."""
        body = self._http.ask("DELETE", "/v1/mounts", request, timeout_s=MOUNT_TIMEOUT_S)
        if not body:  # an agent of release 0.1.0 says nothing
            return UmountAnswer(target=request.target)
        return self._http.read(TypeAdapter(UmountAnswer), body)  # type: ignore[no-any-return]


def control_for(config: Config, idc: str | None = None) -> Control:
    """The control service of an IDC (default: ours), with the token that the settings name. Raises NotFound."""
    chosen = config.idc_named(idc)
    if chosen.control is None:
        raise NotFound(
            f"the control service of IDC {chosen.name}",
            "the settings name none",
            "set `control` in [idc.…], or start the local stack (`outlap up`)",
        )
    return Control(chosen.control, read_secret(chosen.token) if chosen.token else None)
