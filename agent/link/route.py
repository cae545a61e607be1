"""Which interface leads out of this machine, as the kernel's routing tables have it.

Rule 1: it is that of the default route with the lowest metric, IPv4 before IPv6; a machine
        without one has none.
Rule 2: nothing is asked of the network.

Formats: /proc/net/route (fs/proc and net/ipv4/fib_trie.c) and /proc/net/ipv6_route
(net/ipv6/route.c) of Linux.
"""

from pathlib import Path
from typing import Final

IPV4: Final = Path("/proc/net/route")
IPV6: Final = Path("/proc/net/ipv6_route")
_UP: Final = 0x1
_REJECT: Final = 0x200
_IPV4_FIELDS: Final = 8
_IPV6_FIELDS: Final = 10


def default_interface(ipv4: Path = IPV4, ipv6: Path = IPV6) -> str | None:
    """Return the interface of the default route; None without one."""
    for path, read in ((ipv4, read_ipv4), (ipv6, read_ipv6)):
        try:
            found = read(path.read_text())
        except (OSError, ValueError):  # absent, or of another form than we know
            continue
        if found is not None:
            return found
    return None


def read_ipv4(table: str) -> str | None:
    r"""Return the interface of the default route of ``/proc/net/route``.

    >>> read_ipv4("Iface Destination Gateway Flags RefCnt Use Metric Mask\n"
    ...           "eth0 00000000 0102A8C0 0003 0 0 100 00000000\n"
    ...           "wwan0 00000000 0100000A 0003 0 0 700 00000000\n")
    'eth0'
    """
    found: list[tuple[int, str]] = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) < _IPV4_FIELDS:
            continue
        name, destination, _, flags, _, _, metric, mask = fields[:_IPV4_FIELDS]
        if int(destination, 16) == int(mask, 16) == 0 and int(flags, 16) & _UP:
            found.append((int(metric), name))
    return min(found, key=lambda one: one[0])[1] if found else None


def read_ipv6(table: str) -> str | None:
    r"""Return the interface of the default route of ``/proc/net/ipv6_route``.

    >>> none = "0" * 32
    >>> read_ipv6(f"{none} 00 {none} 00 {none} 00000400 00000001 00000000 00000003 wlan0\n"
    ...           f"{none} 00 {none} 00 {none} ffffffff 00000001 00000000 00200200 lo\n")
    'wlan0'
    """
    found: list[tuple[int, str]] = []
    for line in table.splitlines():
        fields = line.split()
        if len(fields) < _IPV6_FIELDS:
            continue
        flags = int(fields[8], 16)
        default = int(fields[0], 16) == int(fields[1], 16) == 0
        if default and flags & _UP and not flags & _REJECT:
            found.append((int(fields[5], 16), fields[9]))
    return min(found, key=lambda one: one[0])[1] if found else None
