"""Which addresses webhooks may go to."""

from ipaddress import ip_address

import pytest

from notifyd.channels.addresses import AddressPolicy

STRICT = AddressPolicy(allow_loopback=False, allow_private=False)
DEV = AddressPolicy(allow_loopback=True, allow_private=False)
LAX = AddressPolicy(allow_loopback=True, allow_private=True)

LOOPBACK = ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "64:ff9b::127.0.0.1"]
PRIVATE = [
    "10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "100.64.0.1", "100.127.255.255", "fc00::1", "fd12:3456::1", "::ffff:192.168.1.1",
    "64:ff9b::10.0.0.1",
]  # fmt: skip
NEVER = [
    "169.254.169.254", "fe80::1", "fe80::1%lo", "::ffff:169.254.169.254",
    "224.0.0.1", "239.1.1.1", "ff02::1", "0.0.0.0", "::", "255.255.255.255", "240.0.0.1",
    "192.0.2.1", "198.18.0.1", "2001:db8::1", "2002:7f00:1::1", "2002:a00:1::1", "::127.0.0.1",
    "64:ff9b:1::1", "fec0::1", "4000::1",
]  # fmt: skip
PUBLIC = ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::1.1.1.1"]


@pytest.mark.parametrize("address", LOOPBACK)
def test_loopback_is_refused_outside_dev_only(address: str) -> None:
    assert STRICT.refusal(ip_address(address)) == "loopback"
    assert DEV.refusal(ip_address(address)) is None
    assert LAX.refusal(ip_address(address)) is None


@pytest.mark.parametrize("address", PRIVATE)
def test_private_range_needs_permission_also_in_dev(address: str) -> None:
    assert STRICT.refusal(ip_address(address)) == "private"
    assert DEV.refusal(ip_address(address)) == "private"
    assert LAX.refusal(ip_address(address)) is None


@pytest.mark.parametrize("address", NEVER)
def test_metadata_multicast_and_reserved_are_refused_whatever_is_set(address: str) -> None:
    for policy in (STRICT, DEV, LAX):
        assert policy.refusal(ip_address(address)) is not None


@pytest.mark.parametrize("address", PUBLIC)
def test_public_address_is_allowed(address: str) -> None:
    assert STRICT.refusal(ip_address(address)) is None
