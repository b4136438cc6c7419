"""The connection type `outlap`: address and token of an IDC's control service, kept by Airflow instead of the settings files.

An operator that names `outlap_conn_id` uses it; without one, the settings say how an IDC is reached, as everywhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

from lake.config import load_config, read_secret
from lake.errors import Explained, NotFound, Refused

if TYPE_CHECKING:
    from cacheengine.client import Control


@dataclass(frozen=True)
class Reach:
    """How a control service is reached. idc: which IDC it serves, "" when the connection does not say."""

    idc: str
    address: str
    token: str | None = field(default=None, repr=False)


def reach_of(connection: Any) -> Reach:
    """What a connection says. Raises Refused when it names no address."""
    what = f"the connection {connection.conn_id!r}"
    if connection.conn_type not in (None, "", OutlapHook.conn_type):
        raise Refused(what, f"it is of the type {connection.conn_type!r}", "choose one of the type `outlap`")
    host = (connection.host or "").strip().rstrip("/")
    if not host:
        raise Refused(what, "it has no control address", "fill in the field Control address")
    if "://" not in host:
        host = f"{connection.schema or 'http'}://{host}"
    if connection.port:
        host = f"{host}:{connection.port}"
    idc = (connection.extra_dejson or {}).get("idc") or ""
    return Reach(str(idc), host, connection.password or None)


def reach(idc: str | None, conn_id: str | None) -> Reach:
    """How the control service of an IDC is reached: by the connection, or (None) by the settings. Raises NotFound, Refused."""
    if conn_id:
        return _agreeing(reach_of(OutlapHook.get_connection(conn_id)), idc, conn_id)
    return _configured(idc)


async def areach(idc: str | None, conn_id: str | None) -> Reach:
    """`reach` for the triggerer, whose event loop must not be blocked."""
    if conn_id:
        return _agreeing(reach_of(await OutlapHook.aget_connection(conn_id)), idc, conn_id)
    return _configured(idc)


def _agreeing(found: Reach, idc: str | None, conn_id: str) -> Reach:
    if idc and found.idc and idc != found.idc:
        raise Refused(
            f"the IDC {idc!r}", f"the connection {conn_id!r} is of {found.idc!r}", "name one of them only"
        )
    return Reach(found.idc or idc or "", found.address, found.token)


def _configured(idc: str | None) -> Reach:
    chosen = load_config().idc_named(idc)
    if chosen.control is None:
        raise NotFound(
            f"the control service of IDC {chosen.name}",
            "the settings name none",
            "set `control` in [idc.…], or name a connection (outlap_conn_id)",
        )
    return Reach(chosen.name, chosen.control, read_secret(chosen.token) if chosen.token else None)


def open_control(found: Reach) -> Control:
    """A client of the control service; close it, or use it in `with`."""
    from cacheengine.client import Control

    return Control(found.address, found.token)


class OutlapHook(BaseHook):
    """An IDC's control service as an Airflow connection."""

    conn_name_attr = "outlap_conn_id"
    default_conn_name = "outlap_default"
    conn_type = "outlap"
    hook_name = "Outlap"

    def __init__(self, outlap_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.outlap_conn_id = outlap_conn_id

    def get_conn(self) -> Control:
        """Raises Refused, NotFound."""
        return open_control(reach(None, self.outlap_conn_id))

    def test_connection(self) -> tuple[bool, str]:
        """What the test button of the form shows: that it answers, that the token is right, and what it serves."""
        try:
            found = reach(None, self.outlap_conn_id)
            with open_control(found) as control:
                nodes = control.nodes()
        except Explained as error:
            return False, str(error)
        strange = sorted({node.idc for node in nodes} - {found.idc}) if found.idc else []
        if strange:
            return (
                False,
                f"{found.address} serves {', '.join(strange)}, not {found.idc}. Next: correct the IDC",
            )
        alive = sum(node.alive for node in nodes)
        return True, f"{found.address} answers: {len(nodes)} nodes, {alive} of them alive"
