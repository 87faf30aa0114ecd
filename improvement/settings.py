"""Settings: read from the environment (and `.env`), one line of meaning and a unit each."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class Environment(StrEnum):
    """`production` refuses to start without keys and servers; `development` runs embedded."""

    DEVELOPMENT = "development"
    PRODUCTION = "production"


def _split(value: object) -> object:
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else value


class Settings(BaseSettings):
    """Every setting of the service; lists are comma-separated."""

    model_config = SettingsConfigDict(
        env_file=".env", extra="ignore", env_ignore_empty=True, use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )  # fmt: skip

    environment: Environment = Environment.DEVELOPMENT
    """`development` or `production`."""
    host: str = "127.0.0.1"
    """Address the HTTP service listens on."""
    port: int = Field(5000, ge=0, le=65535)
    """Port the HTTP service listens on; 0 takes a free one."""
    domains: Annotated[tuple[str, ...], NoDecode] = ("plugins.documents:domain",)
    """Search domains, `module:attribute` each; the first is the default one."""
    data_dir: Path = Path("data")
    """Folder of the embedded stores; used where a URL below is not set."""

    mongo_url: SecretStr | None = None
    """MongoDB connection string; unset: an embedded SecantusDB in `data_dir`."""
    mongo_database: str = "embedding_studio"
    """Name of the Mongo database."""
    redis_url: SecretStr | None = None
    """Redis connection string for Dramatiq; unset: the worker runs inside the HTTP service."""
    qdrant_url: str | None = None
    """Qdrant address; unset: Qdrant Edge in `data_dir`."""
    qdrant_api_key: SecretStr | None = None
    """Qdrant API key, if the server asks for one."""

    api_client_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    """Keys for frontends: clickstream and search."""
    api_operator_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    """Keys for operators: everything, collections and internal paths too."""
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Web origins whose pages may call this API; none unless set."""
    max_body_bytes: int = Field(16 * 2**20, ge=1024)
    """Largest request body, bytes; larger is 413."""
    max_events_per_request: int = Field(1_000, ge=1)
    """Most events (or UBI documents) in one request; more is 422."""
    clickstream_time_max_delta_minus_sec: int = Field(12 * 3600, ge=0)
    """How old a client's timestamp may be, seconds; older is 400."""
    clickstream_time_max_delta_plus_sec: int = Field(300, ge=0)
    """How far ahead of our clock a client's timestamp may be, seconds; more is 400."""

    session_idle_seconds: int = Field(1800, ge=0)
    """Seconds without activity after which a session queues itself for improvement."""
    improvement_seconds_interval: float | None = Field(None, gt=0)
    """Seconds between two ticks of the improvement worker; default 1800, embedded 5."""
    improvement_worker_max_retries: int = Field(3, ge=0)
    """How often Dramatiq repeats a failed improvement message."""
    improvement_worker_time_limit: int = Field(600_000, ge=1_000)
    """Longest run of one improvement message, milliseconds."""
    improvement_batch_sessions: int = Field(256, ge=1)
    """Queued sessions claimed at a time; their users' other queued sessions come along."""
    improvement_lease_seconds: float = Field(120.0, gt=0)
    """How long a worker holds a user before another may take over, seconds."""
    improvement_max_attempts: int = Field(5, ge=1)
    """Claims after which a session that keeps killing its worker is given up as failed."""
    build_worker_time_limit: int = Field(21_600_000, ge=1_000)
    """Longest run of one message of green builds, milliseconds; a build cut off goes on with the next."""
    build_lease_seconds: float = Field(120.0, gt=0)
    """How long a worker holds a green build, from page to page, before another may take over, seconds."""
    tower_seconds_interval: float | None = Field(None, gt=0)
    """Seconds between two looks at what is due of two towers; default 30, embedded 5."""
    tower_worker_time_limit: int = Field(21_600_000, ge=1_000)
    """Longest run of one message of the two towers, milliseconds; training cut off goes on with the next."""
    tower_lease_seconds: float = Field(120.0, gt=0)
    """How long a worker holds a domain's towers, from step to step, before another may take over, seconds."""
    profile_seconds_interval: float = Field(7_200, gt=0)
    """Seconds after which the worker makes the profiles anew whose users acted."""
    popularity_seconds_interval: float | None = Field(None, gt=0)
    """Seconds after which the worker looks again at what is popular; default 3600, embedded 60."""
    alert_webhook_url: SecretStr | None = None
    """Where alerts are posted to as JSON (http or https); unset: they are in the log and in the API only."""

    @field_validator("domains", "api_client_keys", "api_operator_keys", "cors_origins", mode="before")
    @classmethod
    def _comma_separated(cls, value: object) -> object:
        return _split(value)

    @field_validator("alert_webhook_url")
    @classmethod
    def _web_address(cls, value: SecretStr | None) -> SecretStr | None:
        wrong = ValueError("expected an address that begins with http:// or https://")  # and does not show it
        try:
            address = urlsplit("http://unset" if value is None else value.get_secret_value())
        except ValueError:
            raise wrong from None
        if address.scheme not in ("http", "https") or not address.hostname:
            raise wrong
        return value

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if not self.domains:
            raise ValueError("DOMAINS: expected at least one 'module:attribute'")
        if self.environment is Environment.PRODUCTION:
            for name in ("mongo_url", "redis_url", "qdrant_url", "api_client_keys", "api_operator_keys"):
                if not getattr(self, name):
                    raise ValueError(f"{name.upper()} must be set when ENVIRONMENT=production")
        if any(len(key.get_secret_value()) < 16 for key in self.api_client_keys + self.api_operator_keys):
            raise ValueError("API_CLIENT_KEYS, API_OPERATOR_KEYS: expected at least 16 characters a key")
        if bool(self.api_client_keys) != bool(self.api_operator_keys):
            raise ValueError("API_CLIENT_KEYS and API_OPERATOR_KEYS: expected both or neither")
        if not self.api_operator_keys and self.host not in LOOPBACK:
            raise ValueError(f"HOST={self.host}: without API keys the service only listens on loopback")
        return self

    @property
    def interval(self) -> float:
        """Seconds between ticks: the setting, or 1800 with Redis and 5 embedded."""
        return self.improvement_seconds_interval or (1800.0 if self.redis_url else 5.0)

    @property
    def build_interval(self) -> float:
        """Seconds between two looks at whether a build is due: half a lease, embedded at most 5."""
        return min(self.interval, self.build_lease_seconds / 2)

    @property
    def tower_interval(self) -> float:
        """Seconds between two looks at the towers: the setting, or 30 with Redis and 5 embedded."""
        return self.tower_seconds_interval or (30.0 if self.redis_url else 5.0)

    @property
    def popularity_interval(self) -> float:
        """Seconds a domain's popularity is kept: the setting, or 3600 with Redis and 60 embedded."""
        return self.popularity_seconds_interval or (3600.0 if self.redis_url else 60.0)


def template() -> str:
    """Return `.env.example`: every setting with its meaning, its unit and its default."""
    lines = [
        "# Every setting, with its default. Copy to .env and change what you need; empty means the default."
    ]
    for name, field in Settings.model_fields.items():
        default = field.default
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        lines += ["", f"# {field.description}", f"{name.upper()}={'' if shown is None else shown}"]
    return "\n".join(lines) + "\n"
