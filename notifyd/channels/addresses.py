"""Which addresses a webhook may be sent to, decided for every socket just before it connects.

A check of the name or of an earlier DNS answer could be passed by an answer that changes; the
address that is about to be dialled cannot. Sources of the ranges: the IANA special-purpose address
registries (RFC 6890), RFC 6598 (shared space), RFC 4193 (unique local), RFC 6052 (NAT64).
"""

import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

IPAddress = IPv4Address | IPv6Address

# aiohttp's AddrInfoType: family, type, protocol, canonical name, socket address.
AddressInfo = tuple[Any, Any, int, str, tuple[Any, ...]]

PRIVATE = tuple(
    ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)
NAT64 = ip_network("64:ff9b::/96")
# All that has been given out for global unicast; within it, 6to4 hides an IPv4 address.
GLOBAL_UNICAST = ip_network("2000::/3")
SIX_TO_FOUR = ip_network("2002::/16")


class RefusedAddressError(OSError):
    """The address is not one that webhooks may be sent to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressPolicy:
    """Public addresses are always allowed; link-local (where clouds keep their metadata),
    multicast, unspecified and reserved ones never."""

    allow_loopback: bool
    allow_private: bool

    def refusal(self, address: IPAddress) -> str | None:
        """Why the address is refused, None when it is allowed."""
        if isinstance(address, IPv6Address):
            inner = _embedded(address)
            if inner is not None:
                return self.refusal(inner)
        if address.is_loopback:
            return None if self.allow_loopback or self.allow_private else "loopback"
        if any(address in network for network in PRIVATE):
            return None if self.allow_private else "private"
        if address.is_link_local:
            return "link-local"
        if address.is_multicast:
            return "multicast"
        return None if _is_public(address) else "reserved"


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that a packet to `address` ends up at, if there is one."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return IPv4Address(address.packed[12:]) if address in NAT64 else None


def _is_public(address: IPAddress) -> bool:
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_reserved
    return address.is_global and address in GLOBAL_UNICAST and address not in SIX_TO_FOUR


def guarded_socket(policy: AddressPolicy) -> Callable[[AddressInfo], socket.socket]:
    """A socket factory for aiohttp's connector, which calls it for every address it dials,
    whether it was written in the URL or came from DNS.

    The factory raises RefusedAddressError.
    """

    def create(info: AddressInfo) -> socket.socket:
        family, kind, protocol, _, target = info
        reason = policy.refusal(ip_address(target[0]))
        if reason is not None:
            # With an errno, because aiohttp passes on nothing but errno and strerror.
            raise RefusedAddressError(
                errno.EACCES, f"{target[0]} is a {reason} address; webhooks must not go there"
            )
        return socket.socket(family=family, type=kind, proto=protocol)

    return create
