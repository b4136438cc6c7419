"""Settings: the only reader of outlap.toml and of OUTLAP_* variables that name stores and IDCs.

Layers, later ones win key by key: `$OUTLAP_HOME/stack/outlap.toml` (the local stack writes it while it is up),
`$OUTLAP_HOME/outlap.toml`, the file that `OUTLAP_CONFIG` names. Every other part has a section of its own and reads it
with `Config.section(name, model)`, where `OUTLAP_<SECTION>_<KEY>` variables win over the files.

    here = "idc-a"                     # the IDC that this process is in (or OUTLAP_IDC)

    [idc.idc-a]
    store = "lake-a"                   # the IDC's lake
    landing = "landing-a"              # where its vehicles upload (optional)
    control = "http://127.0.0.1:8800"  # its control service (optional)
    token = { file = "…/token" }       # how we speak to it (optional)

    [store.lake-a]
    idc = "idc-a"
    url = "s3://outlap-lake"           # or file:///absolute/folder
    endpoint = "http://127.0.0.1:8333"
    outer_endpoint = "https://…"       # for the other IDCs (optional)
    access_key_id = { env = "KEY_ID" }
    secret_access_key = { file = "…" }
    session_token = { file = "…" }     # of temporary credentials (optional)
    addressing = "path"                # or "virtual": the bucket in the host name
    encryption = "aws:kms"             # or "AES256", where the bucket's policy wants it (optional)
    kms_key_id = "…"                   # with aws:kms (optional)
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from lake.errors import NotFound, Refused

Model = TypeVar("Model", bound=BaseModel)


class SecretRef(BaseModel):
    """Where a secret is kept: exactly one of `env` (a variable's name) and `file` (a path)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    env: str | None = None
    file: Path | None = None

    @model_validator(mode="after")
    def _one(self) -> SecretRef:
        if (self.env is None) == (self.file is None):
            raise ValueError("give exactly one of env and file")
        return self


def read_secret(reference: SecretRef) -> str:
    """The secret itself. Raises NotFound, naming where it should be (never what it is)."""
    if reference.env is not None:
        value = os.environ.get(reference.env)
        if value is None:
            raise NotFound(
                f"the secret in ${reference.env}", "the variable is not set", "set it and try again"
            )
        return value
    assert reference.file is not None
    try:
        return reference.file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise NotFound(
            f"the secret in {reference.file}", error.strerror or str(error), "write it there, mode 0600"
        ) from error


class StoreConfig(BaseModel):
    """How to reach one store. `url` is s3://bucket[/prefix] or file:///folder.

    session_token: of temporary credentials. addressing: whether the bucket stands in the path or the host name of a request.
    encryption, kms_key_id: what the bucket's policy wants of whoever writes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = ""
    idc: str
    url: str
    endpoint: str | None = None
    outer_endpoint: str | None = None
    region: str = "us-east-1"
    access_key_id: SecretRef | None = None
    secret_access_key: SecretRef | None = None
    session_token: SecretRef | None = None
    addressing: Literal["path", "virtual"] = "path"
    encryption: Literal["AES256", "aws:kms"] | None = None
    kms_key_id: str | None = None
    read_only: bool = False


class IdcConfig(BaseModel):
    """One data centre: names of its stores, address of its control service."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = ""
    store: str
    landing: str | None = None
    control: str | None = None
    token: SecretRef | None = None


@dataclass(frozen=True)
class Config:
    """All settings of one process. `tables`: the merged TOML, for the sections of other parts."""

    home: Path
    idc: str
    stores: Mapping[str, StoreConfig]
    idcs: Mapping[str, IdcConfig]
    tables: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def section(self, name: str, model: type[Model]) -> Model:
        """`[name]` of the files with OUTLAP_<NAME>_<KEY> on top, checked by `model`. Raises Refused."""
        values = dict(self.tables.get(name, {}))
        for key in model.model_fields:
            variable = os.environ.get(f"OUTLAP_{name}_{key}".upper())
            if variable is not None:
                values[key] = variable
        return _checked(model, values, f"the settings [{name}]")

    def idc_named(self, name: str | None = None) -> IdcConfig:
        """The IDC of that name, or the one this process is in."""
        name = name or self.idc
        if name not in self.idcs:
            known = ", ".join(sorted(self.idcs)) or "none"
            raise NotFound(f"the IDC {name!r}", f"the settings know: {known}", _FIX)
        return self.idcs[name]

    def store_named(self, name: str) -> StoreConfig:
        if name not in self.stores:
            known = ", ".join(sorted(self.stores)) or "none"
            raise NotFound(f"the store {name!r}", f"the settings know: {known}", _FIX)
        return self.stores[name]


_FIX = "start the local stack (`outlap up`) or describe it in outlap.toml"


def home() -> Path:
    """$OUTLAP_HOME, default ~/.outlap."""
    return Path(os.environ.get("OUTLAP_HOME") or Path.home() / ".outlap").absolute()


def _checked(model: type[Model], values: Mapping[str, Any], what: str) -> Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        # never the values: one of them may be a secret that someone put in the wrong place
        causes = "; ".join(
            f"{'.'.join(str(part) for part in item['loc']) or 'it'}: {item['msg']}" for item in error.errors()
        )
        raise Refused(what, causes, "correct it in outlap.toml or the environment") from error


def _merge(under: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        known = merged.get(key)
        merged[key] = _merge(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return merged


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Refused(f"the settings file {path}", str(error), "correct the file") from error


def load_config() -> Config:
    """Read all layers. Raises Refused for what cannot be read; an empty configuration is legal."""
    here = home()
    layers = [path for path in (here / "stack" / "outlap.toml", here / "outlap.toml") if path.exists()]
    extra = os.environ.get("OUTLAP_CONFIG")
    if extra:
        layers.append(Path(extra))
    tables: dict[str, Any] = {}
    for path in layers:
        tables = _merge(tables, _read_file(path))
    stores = {
        name: _checked(StoreConfig, {**table, "name": name}, f"the settings [store.{name}]")
        for name, table in tables.get("store", {}).items()
    }
    idcs = {
        name: _checked(IdcConfig, {**table, "name": name}, f"the settings [idc.{name}]")
        for name, table in tables.get("idc", {}).items()
        if isinstance(table, dict)
    }
    idc = os.environ.get("OUTLAP_IDC") or str(tables.get("here", next(iter(idcs), "")))
    return Config(home=here, idc=idc, stores=stores, idcs=idcs, tables=tables)
