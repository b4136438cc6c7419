"""Settings of the control service: OUTLAP_CONTROL_* variables. Stores and IDCs come from outlap.toml (lake.config)."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from cacheengine.control.groupsettings import GroupSettings
from lake.config import home
from lake.errors import Refused


class ControlSettings(BaseSettings):
    """`listen` is HOST:PORT. `database` is an SQLAlchemy URL (secret: it may carry a password), default SQLite in `state_dir`.

    `poll_s`: how often an instance looks into the database for what another one changed. `flush_s`: how often it writes what heartbeats
    brought. `policy_every_s`: how often it looks whether a policy frees something. `heartbeat_interval_s`, `dead_after_s`,
    `dead_grace_s`, `keep_days`, `member_away_s`: defaults of the group's settings of these names (cacheengine.control.groupsettings).
    `kubernetes_labels`: keep labels of Kubernetes nodes that say what each holds, every `kubernetes_every_s`; through the API of the
    cluster that the service runs in, or at `kubernetes_url`, with the token in `kubernetes_token_file`.
    """

    model_config = SettingsConfigDict(env_prefix="OUTLAP_CONTROL_", extra="ignore")

    listen: str = "127.0.0.1:8800"
    idc: str = ""
    state_dir: Path = Field(default_factory=lambda: home() / "control")
    database: SecretStr | None = None
    admin_token_file: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    heartbeat_interval_s: float = Field(default=2.0, gt=0, le=60)
    dead_after_s: float = Field(default=15.0, gt=0)
    dead_grace_s: float = Field(default=30.0, ge=0)
    poll_s: float = Field(default=1.0, gt=0, le=60)
    flush_s: float = Field(default=0.5, gt=0, le=10)
    policy_every_s: float = Field(default=30.0, gt=0)
    keep_days: float = Field(default=30.0, gt=0)
    member_away_s: float = Field(default=300.0, gt=0)
    kubernetes_labels: bool = False
    kubernetes_url: str | None = None
    kubernetes_token_file: Path | None = None
    kubernetes_ca_file: Path | None = None
    kubernetes_every_s: float = Field(default=15.0, gt=0)
    max_body_bytes: int = Field(default=256 << 20, gt=0)

    @field_validator("listen")
    @classmethod
    def _address(cls, listen: str) -> str:
        host, colon, port = listen.rpartition(":")
        if not (host and colon and port.isdigit() and int(port) < 65536):
            raise ValueError("it must be HOST:PORT")
        return listen

    @property
    def host(self) -> str:
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.listen.rpartition(":")[2])

    @property
    def database_url(self) -> str:
        if self.database is not None:
            return self.database.get_secret_value()
        return f"sqlite:///{self.state_dir.absolute()}/control.db"

    def defaults(self) -> GroupSettings:
        """What holds of the group's settings that nobody set."""
        return GroupSettings(
            heartbeat_interval_s=self.heartbeat_interval_s,
            dead_after_s=self.dead_after_s,
            dead_grace_s=self.dead_grace_s,
            keep_days=self.keep_days,
            member_away_s=self.member_away_s,
        )

    @property
    def admin_token_path(self) -> Path:
        return self.admin_token_file or self.state_dir / "admin.token"


def load_settings() -> ControlSettings:
    """From the environment. Raises Refused, naming settings and never their values."""
    try:
        return ControlSettings()
    except ValidationError as error:
        causes = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise Refused("the settings OUTLAP_CONTROL_*", causes, "correct the environment") from error
