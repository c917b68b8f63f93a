"""The settings of attachments: where the S3 store is, and what may be attached."""

import re
from dataclasses import dataclass, field
from typing import Literal, Self
from urllib.parse import urlsplit

from servicedesk.environment import Environment, SettingError
from ticketd.attachments.attachment import LARGEST_BYTES, Limits, is_content_type

Addressing = Literal["path", "virtual"]
ADDRESSINGS: tuple[Addressing, ...] = ("path", "virtual")
SEVEN_DAYS = 7 * 86_400.0  # What S3 allows a presigned URL at most.
# What people send to a service desk. Nothing that a browser would run when it is opened, so neither
# HTML nor SVG.
TYPES = (
    "image/png,image/jpeg,image/gif,image/webp,image/heic,application/pdf,text/plain,text/csv,"
    "application/json,application/zip,message/rfc822,audio/mpeg,video/mp4,application/msword,"
    "application/vnd.ms-excel,application/vnd.oasis.opendocument.text,"
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document,"
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
)
# As S3 has them today; a host's name can be made of it.
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)
EXAMPLE = "http://127.0.0.1:8333"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachmentSettings:
    """`endpoint` is where ticketd reaches S3, `public_endpoint` where clients do; both without a
    slash at the end. Without `access_key` the credentials are those of this machine, as AWS's own
    tools find them."""

    endpoint: str
    public_endpoint: str
    bucket: str
    region: str
    addressing: Addressing
    access_key: str | None
    secret_key: str | None = field(repr=False)
    session_token: str | None = field(repr=False)
    call_seconds: float
    upload_seconds: float
    download_seconds: float
    late_seconds: float
    sweep_seconds: float
    limits: Limits

    @classmethod
    def from_environment(cls, env: Environment, database_url: str | None) -> Self | None:
        """None without S3_BUCKET: no attachments. Raises SettingError."""
        bucket = env.optional("S3_BUCKET")
        region = env.text("S3_REGION", "us-east-1")
        given = _endpoint(env, "S3_ENDPOINT")
        endpoint = given or f"https://s3.{region}.amazonaws.com"
        access_key, secret_key = env.optional("S3_ACCESS_KEY"), env.optional("S3_SECRET_KEY")
        found = cls(
            endpoint=endpoint,
            public_endpoint=_endpoint(env, "S3_PUBLIC_ENDPOINT") or endpoint,
            bucket=bucket or "",
            region=region,
            addressing=env.choice("S3_ADDRESSING", "path" if given else "virtual", ADDRESSINGS),
            access_key=access_key,
            secret_key=secret_key,
            session_token=env.optional("S3_SESSION_TOKEN"),
            call_seconds=env.seconds("S3_TIMEOUT", 3.0, maximum=60.0),
            upload_seconds=env.seconds(
                "TICKETD_ATTACHMENT_UPLOAD_TTL", 900.0, minimum=1.0, maximum=SEVEN_DAYS
            ),
            download_seconds=env.seconds(
                "TICKETD_ATTACHMENT_DOWNLOAD_TTL", 300.0, minimum=1.0, maximum=SEVEN_DAYS
            ),
            late_seconds=env.seconds("TICKETD_ATTACHMENT_LATE_UPLOAD", 3600.0, minimum=0.0),
            sweep_seconds=env.seconds("TICKETD_ATTACHMENT_SWEEP", 30.0, maximum=3600.0),
            limits=_limits(env),
        )
        if bucket is None:
            return None
        if not BUCKET.fullmatch(bucket):
            raise SettingError(
                "S3_BUCKET",
                f"is {bucket!r}; it takes 3 to 63 lower-case letters, digits, dots and dashes",
            )
        _require_keys(access_key, secret_key)
        if database_url is None:
            raise SettingError(
                "S3_BUCKET",
                "is set, but without DATABASE_URL nothing would remember what is in it; "
                "set DATABASE_URL, or take S3_BUCKET away",
            )
        return found


def _endpoint(env: Environment, name: str) -> str | None:
    """Without a slash at its end. The value is not in the error: it may hold a password."""
    url = env.url(name, ("http", "https"), example=EXAMPLE)
    if url is None:
        return None
    parts = urlsplit(url)
    if parts.username or parts.query or parts.fragment or parts.path.strip("/"):
        raise SettingError(name, f"takes a scheme, a host and a port alone, such as {EXAMPLE}")
    return f"{parts.scheme}://{parts.netloc}"


def _limits(env: Environment) -> Limits:
    types = [part.strip() for part in env.text("TICKETD_ATTACHMENT_TYPES", TYPES).split(",")]
    for each in types:
        if not is_content_type(each):
            raise SettingError(
                "TICKETD_ATTACHMENT_TYPES",
                f"has {each!r}; it takes media types in lower case joined by commas, such as "
                "image/png,application/pdf",
            )
    return Limits(
        most=env.integer("TICKETD_ATTACHMENT_LIMIT", 20, minimum=1, maximum=1000),
        largest_bytes=env.integer(
            "TICKETD_ATTACHMENT_MAX_BYTES", 26_214_400, minimum=1, maximum=LARGEST_BYTES
        ),
        types=frozenset(types),
    )


def _require_keys(access_key: str | None, secret_key: str | None) -> None:
    if (access_key is None) != (secret_key is None):
        missing = "S3_ACCESS_KEY" if access_key is None else "S3_SECRET_KEY"
        raise SettingError(missing, "is not set; S3_ACCESS_KEY and S3_SECRET_KEY go together")
