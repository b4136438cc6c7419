"""Secrets of the local stack: made once, each in a file of its own that only this user can read."""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path

from outlap.stack.layout import IDCS, Layout

AIRFLOW_USER = "admin"


def write_private(path: Path, text: str) -> None:
    """Replace a file, mode 0600 from its first byte."""
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _once(path: Path, make: Callable[[], str]) -> None:
    if not path.exists():
        write_private(path, make())
    path.chmod(0o600)


def _token() -> str:
    return secrets.token_urlsafe(32)


def key_id(layout: Layout, idc: str) -> Path:
    return layout.secrets / f"store-{idc}-key-id"


def secret_key(layout: Layout, idc: str) -> Path:
    return layout.secrets / f"store-{idc}-secret-key"


def admin_token(layout: Layout, idc: str) -> Path:
    return layout.secrets / f"control-{idc}-admin-token"


def store_identities(layout: Layout, idc: str) -> Path:
    """SeaweedFS' own list of who may do what, for -s3.config."""
    return layout.secrets / f"store-{idc}-s3.json"


def airflow_secret(layout: Layout, name: str) -> Path:
    """name: fernet-key, jwt-secret or api-secret."""
    return layout.secrets / f"airflow-{name}"


def make_secrets(layout: Layout) -> None:
    """Everything that is not there yet; what is there stays, so that data of an earlier run can be read."""
    for idc in IDCS:
        _once(key_id(layout, idc), lambda: secrets.token_hex(10))
        _once(secret_key(layout, idc), _token)
        _once(admin_token(layout, idc), _token)
        credentials = [
            {"accessKey": key_id(layout, idc).read_text(), "secretKey": secret_key(layout, idc).read_text()}
        ]
        identity = {
            "name": "outlap",
            "credentials": credentials,
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        write_private(store_identities(layout, idc), json.dumps({"identities": [identity]}))
    _once(airflow_secret(layout, "fernet-key"), lambda: base64.urlsafe_b64encode(os.urandom(32)).decode())
    _once(airflow_secret(layout, "jwt-secret"), _token)
    _once(airflow_secret(layout, "api-secret"), _token)
    _once(layout.passwords, lambda: json.dumps({AIRFLOW_USER: secrets.token_urlsafe(12)}))


def airflow_password(layout: Layout) -> str:
    """The password of the Airflow page's user."""
    return str(json.loads(layout.passwords.read_text(encoding="utf-8"))[AIRFLOW_USER])
