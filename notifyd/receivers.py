"""The receivers that the settings describe: webhooks and the mail server."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Literal
from urllib.parse import unquote, urlsplit

from notifyd.channels.addresses import AddressPolicy
from notifyd.channels.signature import signing_key
from notifyd.channels.smtp import MailServer
from servicedesk.environment import Address, Environment, SettingError

# `name=` before an entry of a list; a URL or a secret alone has no name.
NAMED = re.compile(r"([a-z0-9][a-z0-9-]{0,39})=(.+)", re.DOTALL)
MAIL_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,253}")
SMTP_SECURITY: Mapping[str, tuple[Literal["starttls", "tls", "none"], int]] = {
    "smtp": ("starttls", 587),
    "smtps": ("tls", 465),
    "smtp+insecure": ("none", 25),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSettings:
    """One webhook. `receiver` is `webhook`, or `webhook:name` when there are several."""

    receiver: str
    url: str = field(repr=False)
    keys: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class MailSettings:
    server: MailServer
    sender: str
    recipients: tuple[str, ...]
    timeout_seconds: float
    connections: int


def entries(text: str) -> tuple[str, ...]:
    return tuple(entry.strip() for entry in text.split(",") if entry.strip())


def _named(text: str) -> tuple[str | None, str]:
    match = NAMED.fullmatch(text)
    return (match[1], match[2]) if match else (None, text)


def read_webhooks(
    env: Environment, app_env: str, policy: AddressPolicy
) -> tuple[WebhookSettings, ...]:
    """NOTIFYD_WEBHOOK_URL: one URL, or several as name=URL,name=URL. NOTIFYD_WEBHOOK_SECRET: one
    for all, or name=SECRET for one of them; two separated by a space sign both, to rotate."""
    name = "NOTIFYD_WEBHOOK_URL"
    example = "https://example.org/hook, or crm=https://…,chat=https://… for several"
    named = [_named(entry) for entry in entries(env.required(name, f"a URL such as {example}"))]
    labels = [label for label, _ in named]
    if len(named) > 1 and (None in labels or len(set(labels)) < len(labels)):
        raise SettingError(name, f"has several URLs without names of their own; it takes {example}")
    secrets = _secrets(env, {label for label in labels if label is not None})
    webhooks = []
    for label, url in named:
        _check_webhook_url(name, url, app_env, policy)
        keys = secrets.get(label) or secrets.get(None)
        if not keys:
            raise SettingError(
                "NOTIFYD_WEBHOOK_SECRET",
                f"has none for {label or 'the webhook'}; it takes whsec_ and base64 of 24 to 64 "
                "random bytes, or name=whsec_… for one of several webhooks",
            )
        receiver = f"webhook:{label}" if label else "webhook"
        webhooks.append(WebhookSettings(receiver=receiver, url=url, keys=keys))
    return tuple(webhooks)


def _secrets(env: Environment, labels: set[str]) -> dict[str | None, tuple[bytes, ...]]:
    name = "NOTIFYD_WEBHOOK_SECRET"
    secrets: dict[str | None, tuple[bytes, ...]] = {}
    for position, entry in enumerate(entries(env.text(name, "")), start=1):
        label, text = _named(entry)
        if label is not None and label not in labels:
            raise SettingError(name, f"names {label!r}, which NOTIFYD_WEBHOOK_URL does not")
        try:
            secrets[label] = tuple(signing_key(secret) for secret in text.split())
        except ValueError as error:
            raise SettingError(name, f"is malformed: secret {position} {error}") from None
    return secrets


def _check_webhook_url(name: str, url: str, app_env: str, policy: AddressPolicy) -> None:
    schemes = ("https", "http") if app_env == "dev" else ("https",)
    try:
        parts = urlsplit(url)
        sound = parts.scheme in schemes and parts.hostname and parts.port != 0
    except ValueError:
        sound = False
    if not sound or any(ord(character) <= 0x20 for character in url):
        accepts = " or ".join(f"{scheme}://" for scheme in schemes)
        raise SettingError(
            name, f"is malformed; it takes {accepts} URLs (http only when APP_ENV is dev)"
        )
    try:
        refusal = policy.refusal(ip_address(parts.hostname or ""))
    except ValueError:
        return  # a name: its addresses are checked at every connection
    if refusal is not None:
        raise SettingError(
            name,
            f"points to a {refusal} address; it takes public ones, and private and loopback ones "
            "with NOTIFYD_WEBHOOK_ALLOW_PRIVATE=true",
        )


def read_mail(env: Environment, app_env: str, timeout_seconds: float) -> MailSettings:
    sender = env.required("NOTIFYD_SMTP_FROM", "the address that mails come from")
    recipients = entries(env.required("NOTIFYD_SMTP_TO", "addresses separated by commas"))
    if not recipients:
        raise SettingError("NOTIFYD_SMTP_TO", "names nobody; it takes addresses joined by commas")
    for name, address in [
        ("NOTIFYD_SMTP_FROM", sender),
        *(("NOTIFYD_SMTP_TO", recipient) for recipient in recipients),
    ]:
        if not MAIL_ADDRESS.fullmatch(address):
            raise SettingError(
                name, f"has {address!r}; it takes addresses such as desk@example.org"
            )
    return MailSettings(
        server=_mail_server(env, app_env),
        sender=sender,
        recipients=recipients,
        timeout_seconds=timeout_seconds,
        connections=env.integer("NOTIFYD_SMTP_CONNECTIONS", 8, minimum=1, maximum=1000),
    )


def _mail_server(env: Environment, app_env: str) -> MailServer:
    name, example = "NOTIFYD_SMTP_URL", "smtp://user:password@mail.example.org:587"
    url = env.url(name, tuple(SMTP_SECURITY), example=example)
    parts = urlsplit(url or env.required(name, f"a URL such as {example}"))
    if not parts.hostname:
        raise SettingError(name, f"has no host; it takes a URL such as {example}")
    security, port = SMTP_SECURITY[parts.scheme]
    loopback = Address(parts.hostname, port).is_loopback
    if security == "none" and app_env != "dev" and not loopback:
        raise SettingError(
            name,
            "is smtp+insecure://, which is for APP_ENV=dev and loopback; take smtp:// (STARTTLS)",
        )
    return MailServer(
        host=parts.hostname,
        port=parts.port or port,
        security=security,
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
    )
