"""The settings of ticketd, read once from the environment."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from servicedesk.environment import Address, Environment, SettingError
from servicedesk.logs import LEVEL_NAMES
from ticketd.attachments.settings import AttachmentSettings
from ticketd.quotas import Quota

DEVELOPMENT = "dev"
SECRET_CHARACTERS = 32
QUOTA = re.compile(r"([0-9]{1,10})/([0-9]{1,5})?([smh])", re.ASCII)
QUOTA_UNITS = {"s": 1, "m": 60, "h": 3600}
Auth = Literal["tokens", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Limits without another word are those of one worker.

    `cache_seconds` is None without a cache, `attachments` without an S3 store, `tokens_file` when
    nobody has to show a token, `database_url` for tickets in memory. `metrics_directory` is where
    workers share their metrics, None for a lone process.
    """

    environment: str
    http_address: Address
    metrics_address: Address
    log_level: str
    access_log: bool
    database_url: str | None = field(repr=False)
    workers: int
    lanes: int
    list_lanes: int
    batch_limit: int
    queue_limit: int
    retry_seconds: float
    connection_limit: int
    request_seconds: float
    header_seconds: float
    idle_seconds: float
    shutdown_seconds: float
    require_if_match: bool
    tokens_file: Path | None
    cursor_secret: str | None = field(repr=False)
    key_seconds: float
    redis_url: str | None = field(repr=False)
    redis_seconds: float
    cache_seconds: float | None
    quota: Quota | None
    attachments: AttachmentSettings | None
    metrics_directory: Path | None

    @classmethod
    def from_environment(cls, values: Mapping[str, str]) -> Self:
        """Raises SettingError, which names the variable and what it accepts."""
        env = Environment(values)
        environment = env.text("APP_ENV", DEVELOPMENT)
        http_address = env.address("HTTP_ADDR", "127.0.0.1:8080")
        database_url = env.url(
            "DATABASE_URL",
            ("postgresql", "postgres"),
            example="postgresql://user:password@127.0.0.1:5432/servicedesk",
        )
        directory = env.optional("PROMETHEUS_MULTIPROC_DIR")
        return cls(
            environment=environment,
            http_address=http_address,
            metrics_address=_metrics_address(env, http_address),
            log_level=env.choice("LOG_LEVEL", "info", LEVEL_NAMES),
            access_log=env.flag("TICKETD_ACCESS_LOG", default=True),
            database_url=database_url,
            workers=_workers(env, database_url),
            lanes=env.integer("TICKETD_LANES", 2, minimum=1, maximum=64),
            list_lanes=env.integer("TICKETD_LIST_LANES", 4, minimum=1, maximum=64),
            batch_limit=env.integer("TICKETD_BATCH_LIMIT", 128, minimum=1, maximum=10_000),
            queue_limit=env.integer("TICKETD_QUEUE_LIMIT", 1024, minimum=0, maximum=100_000),
            retry_seconds=env.seconds("TICKETD_DATABASE_RETRY", 2.0, maximum=60.0),
            connection_limit=env.integer(
                "TICKETD_CONNECTION_LIMIT", 16_384, minimum=1, maximum=1_000_000
            ),
            request_seconds=env.seconds("TICKETD_REQUEST_TIMEOUT", 5.0, maximum=300.0),
            header_seconds=env.seconds("TICKETD_HEADER_TIMEOUT", 30.0, maximum=3600.0),
            idle_seconds=env.seconds("TICKETD_IDLE_TIMEOUT", 75.0, maximum=3600.0),
            shutdown_seconds=env.seconds("SHUTDOWN_TIMEOUT", 10.0, minimum=0.5, maximum=3600.0),
            require_if_match=env.flag("TICKETD_REQUIRE_IF_MATCH", default=True),
            tokens_file=_tokens_file(env, http_address),
            cursor_secret=_cursor_secret(env, environment),
            redis_url=_redis_url(env),
            redis_seconds=env.seconds("TICKETD_REDIS_TIMEOUT", 0.1, maximum=5.0),
            cache_seconds=_cache_seconds(env),
            quota=_quota(env),
            key_seconds=env.seconds(
                "TICKETD_IDEMPOTENCY_RETENTION", 86_400.0, minimum=60.0, maximum=31_536_000
            ),
            attachments=AttachmentSettings.from_environment(env, database_url),
            metrics_directory=None if directory is None else Path(directory),
        )


def _metrics_address(env: Environment, http_address: Address) -> Address:
    address = env.address("METRICS_ADDR", "127.0.0.1:9089")
    if address.overlaps(http_address):
        raise SettingError(
            "METRICS_ADDR",
            f"is {address}, which HTTP_ADDR {http_address} takes already; "
            "give one of them another port",
        )
    return address


def _quota(env: Environment) -> Quota | None:
    text = env.optional("TICKETD_QUOTA")
    if text is None:
        return None
    match = QUOTA.fullmatch(text)
    count = int(match[1]) if match else 0
    seconds = int(match[2] or 1) * QUOTA_UNITS[match[3]] if match else 0
    if not 1 <= count <= 1_000_000_000 or not 1 <= seconds <= 86_400:
        raise SettingError(
            "TICKETD_QUOTA",
            f"is {text!r}; it takes requests and a time of up to 24h, such as 100/s or 1000/1m",
        )
    return Quota(count, seconds)


def _cache_seconds(env: Environment) -> float | None:
    """How long an entry of the cache lives; None when it is off."""
    is_on = env.flag("TICKETD_CACHE", default=False)
    seconds = env.seconds("TICKETD_CACHE_TTL", 30.0, minimum=0.1, maximum=3600.0)
    if is_on and not (env.optional("REDIS_URL") and env.optional("DATABASE_URL")):
        raise SettingError("TICKETD_CACHE", "is on; it needs REDIS_URL and DATABASE_URL")
    return seconds if is_on else None


def _redis_url(env: Environment) -> str | None:
    example = "redis://user:password@127.0.0.1:6379/0, or rediss:// for TLS"
    url = env.url("REDIS_URL", ("redis", "rediss"), example=example)
    if url is not None:
        parts = urlsplit(url)
        if parts.query or not re.fullmatch(r"/?|/[0-9]{1,3}", parts.path, re.ASCII):
            raise SettingError(
                "REDIS_URL",
                f"is malformed; it takes a URL such as {example}, with at most a database number",
            )
    return url


def _workers(env: Environment, database_url: str | None) -> int:
    workers = env.integer("TICKETD_WORKERS", 1, minimum=1, maximum=256)
    if workers > 1 and database_url is None:
        raise SettingError(
            "TICKETD_WORKERS",
            f"is {workers}, but without DATABASE_URL tickets are in the memory of one worker; "
            "set DATABASE_URL or leave it at 1",
        )
    return workers


def _tokens_file(env: Environment, http_address: Address) -> Path | None:
    path = env.optional("TICKETD_TOKENS_FILE")
    choices: tuple[Auth, ...] = ("tokens", "none")
    if env.optional("TICKETD_AUTH") is not None:
        auth = env.choice("TICKETD_AUTH", "tokens", choices)
    elif path is not None or http_address.is_loopback:
        auth = "none" if path is None else "tokens"
    else:
        raise SettingError(
            "TICKETD_AUTH",
            f"is not set, and HTTP_ADDR {http_address} is not a loopback address; "
            "set TICKETD_TOKENS_FILE, or TICKETD_AUTH=none to let everybody in",
        )
    if auth == "none":
        return None
    if path is None:
        raise SettingError("TICKETD_TOKENS_FILE", "is not set; TICKETD_AUTH=tokens needs a file")
    return Path(path)


def _cursor_secret(env: Environment, environment: str) -> str | None:
    secret = env.optional("TICKETD_CURSOR_SECRET")
    accepts = f"at least {SECRET_CHARACTERS} characters, the same in every copy of ticketd"
    if secret is None and environment != DEVELOPMENT:
        raise SettingError(
            "TICKETD_CURSOR_SECRET",
            f"is not set, and APP_ENV is not {DEVELOPMENT}; it takes {accepts}",
        )
    if secret is not None and len(secret) < SECRET_CHARACTERS:
        raise SettingError("TICKETD_CURSOR_SECRET", f"is too short; it takes {accepts}")
    return secret
