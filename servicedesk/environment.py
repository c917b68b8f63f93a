"""Typed settings from environment variables.

A malformed or missing setting raises SettingError, whose text names the variable and what it
accepts; nothing falls back to a default silently. Only `Config.from_environment` of each daemon
uses this module, and nothing else reads the environment.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import TypeVar
from urllib.parse import urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict

DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)", re.ASCII)
UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
# Kafka refuses the two names that are paths.
KAFKA_NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}")
BROKER = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):\d{1,5}", re.ASCII)
HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
# These URLs may leave the host out (the server then listens on a socket file of this machine), and
# may name several. Source: libpq, chapter 34.1.1.3 (specifying multiple hosts).
POSTGRES_SCHEMES = frozenset({"postgresql", "postgres"})
# Which of several hosts to stay with, for a program that writes.
WRITABLE = ("read-write", "primary")

Choice = TypeVar("Choice", bound=str)


class SettingError(Exception):
    """A setting is missing or malformed; the text is one line for the operator."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} {reason}")
        self.name = name


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a TCP port to listen on. An IPv6 host is held without its brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it; a name other than localhost never counts."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def overlaps(self, other: "Address") -> bool:
        """Whether only one of the two can be listened on: the same port, not 0, on the same host
        or on every host."""
        hosts = ["127.0.0.1" if each.host == "localhost" else each.host for each in (self, other)]
        same_host = hosts[0] == hosts[1] or any(map(_is_every_host, hosts))
        return self.port == other.port != 0 and same_host


class Environment:
    """Reads settings from a mapping of names to texts; an empty text counts as not set."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def optional(self, name: str) -> str | None:
        return self._values.get(name, "").strip() or None

    def text(self, name: str, default: str) -> str:
        return self.optional(name) or default

    def required(self, name: str, accepts: str) -> str:
        value = self.optional(name)
        if value is None:
            raise SettingError(name, f"is not set; it takes {accepts}")
        return value

    def integer(self, name: str, default: int, *, minimum: int, maximum: int) -> int:
        value = self.optional(name)
        if value is None:
            return default
        if not re.fullmatch(r"-?\d{1,18}", value, re.ASCII) or not minimum <= int(value) <= maximum:
            raise SettingError(
                name, f"is {value!r}; it takes a whole number from {minimum} to {maximum}"
            )
        return int(value)

    def flag(self, name: str, *, default: bool) -> bool:
        value = self.optional(name)
        if value is None:
            return default
        if value.lower() not in {"true", "false", "1", "0"}:
            raise SettingError(name, f"is {value!r}; it takes true or false")
        return value.lower() in {"true", "1"}

    def choice(self, name: str, default: Choice, choices: tuple[Choice, ...]) -> Choice:
        value = self.optional(name)
        if value is None:
            return default
        for choice in choices:
            if value == choice:
                return choice
        raise SettingError(name, f"is {value!r}; it takes one of {', '.join(choices)}")

    def choices(
        self, name: str, default: tuple[Choice, ...], choices: tuple[Choice, ...]
    ) -> tuple[Choice, ...]:
        """A comma-separated list without repeats, in the order written."""
        value = self.optional(name)
        if value is None:
            return default
        chosen: list[Choice] = []
        for part in (piece.strip() for piece in value.split(",")):
            found = next((choice for choice in choices if choice == part), None)
            if found is None:
                raise SettingError(
                    name, f"has {part!r}; it takes a comma-separated list of {', '.join(choices)}"
                )
            if found not in chosen:
                chosen.append(found)
        return tuple(chosen)

    def seconds(
        self, name: str, default: float, *, minimum: float = 0.001, maximum: float = 31_536_000
    ) -> float:
        """A duration such as 500ms, 30s, 5m or 24h, returned in seconds."""
        value = self.optional(name)
        if value is None:
            return default
        match = DURATION.fullmatch(value)
        found = float(match[1]) * UNIT_SECONDS[match[2]] if match else -1.0
        if not minimum <= found <= maximum:
            raise SettingError(
                name,
                f"is {value!r}; it takes a duration such as 500ms, 30s, 5m or 24h, "
                f"from {minimum:g}s to {maximum:g}s",
            )
        return found

    def address(self, name: str, default: str) -> Address:
        """HOST:PORT; a missing host means 127.0.0.1, IPv6 goes in brackets."""
        value = self.text(name, default)
        host, _, port = value.rpartition(":")
        valid_port = re.fullmatch(r"\d{1,5}", port, re.ASCII) and int(port) <= 65535
        if not valid_port or not _is_host(host):
            raise SettingError(name, f"is {value!r}; it takes HOST:PORT, such as 127.0.0.1:8080")
        return Address(host.strip("[]") or "127.0.0.1", int(port))

    def url(self, name: str, schemes: tuple[str, ...], *, example: str) -> str | None:
        """A URL with one of the schemes and a host; one of PostgreSQL may have several. The value
        never appears in the error: it may hold a password."""
        value = self.optional(name)
        if value is None:
            return None
        scheme = value.partition(":")[0]
        is_sound = _is_conninfo if scheme in POSTGRES_SCHEMES else _has_host
        if scheme not in schemes or not is_sound(value):
            raise SettingError(name, f"is malformed; it takes a URL such as {example}")
        if scheme in POSTGRES_SCHEMES and not _leads_to_primary(value):
            raise SettingError(
                name,
                "names several hosts and could lead to one that takes no writes; "
                "add target_session_attrs=read-write to its parameters",
            )
        return value

    def kafka_name(self, name: str, default: str) -> str:
        """A topic or group name as Kafka allows them."""
        value = self.text(name, default)
        if not KAFKA_NAME.fullmatch(value):
            raise SettingError(
                name,
                f"is {value!r}; it takes up to 249 letters, digits, dots, dashes and underscores",
            )
        return value

    def kafka_brokers(self, name: str) -> str | None:
        """HOST:PORT, several joined by commas, without the spaces between them."""
        value = self.optional(name)
        if value is None:
            return None
        brokers = [broker.strip() for broker in value.split(",")]
        for broker in brokers:
            if not BROKER.fullmatch(broker):
                raise SettingError(
                    name, f"has {broker!r}; it takes HOST:PORT, several joined by commas"
                )
        return ",".join(brokers)


def _has_host(value: str) -> bool:
    try:
        parts = urlsplit(value)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _is_conninfo(value: str) -> bool:
    """Whether libpq can connect by it; when it cannot, its own error repeats a part, perhaps a
    secret: an @ in a password that is not written %40 makes the rest of it a part of the host."""
    try:
        found = conninfo_to_dict(value)
    except psycopg.ProgrammingError:
        return False
    hosts, ports = (str(found.get(part) or "").split(",") for part in ("host", "port"))
    return (
        len(ports) in {1, len(hosts)}
        and all(port == "" or _is_port(port) for port in ports)
        and (all(hosts) or len(hosts) == 1)
        and not any("@" in host for host in hosts)
    )


def _leads_to_primary(value: str) -> bool:
    """Whether a connection is surely to a server that can be written to, or to the only one."""
    found = conninfo_to_dict(value)
    several = any("," in str(found.get(part) or "") for part in ("host", "hostaddr"))
    return not several or found.get("target_session_attrs") in WRITABLE


def _is_port(text: str) -> bool:
    return re.fullmatch(r"\d{1,5}", text, re.ASCII) is not None and 0 < int(text) <= 65535


def _is_every_host(host: str) -> bool:
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False


def _is_host(host: str) -> bool:
    if host.startswith("[") and host.endswith("]"):
        try:
            return bool(IPv6Address(host[1:-1]))
        except ValueError:
            return False
    return not host or HOST_NAME.fullmatch(host) is not None
