"""How much of what was written to a connection its client has not taken yet."""

import asyncio
import fcntl
import struct
import sys
import termios

COUNT = struct.Struct("i")


def unsent_bytes(transport: asyncio.Transport) -> int:
    """0 when the kernel has all of it. What waits here leaves in leaps of a third of the kernel's
    buffer, so what the kernel holds is counted too (tcp(7), SIOCOUTQ)."""
    waiting = transport.get_write_buffer_size()
    if not waiting:
        return 0
    return waiting + _in_kernel_bytes(transport)


def _in_kernel_bytes(transport: asyncio.Transport) -> int:
    """Not yet acknowledged; 0 where the system does not tell."""
    if sys.platform != "linux":
        return 0
    number = transport.get_extra_info("socket").fileno()
    try:
        found: tuple[int] = COUNT.unpack(fcntl.ioctl(number, termios.TIOCOUTQ, bytes(COUNT.size)))
    except OSError:  # it is closed already
        return 0
    return found[0]
