"""Links of their own: every device, and the manager, behind a link that has a rate.

    hub        the broker, and a bridge that all links end at
    manager    behind a link that is shaped when asked
    device-N   behind a link that is shaped from the start

Rule 1: everything lies in network namespaces that are named after this process and are
        deleted at the end, whatever happens; the machine's own network is not touched.
Rule 2: a link is shaped at both of its ends, by a token bucket filter (tc-tbf(8)).
Rule 3: where this may not be done, ``NotPermittedError`` says why in one sentence.
"""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from typing import Self

HOST = "10.77.0.1"
"""The broker's address in the hub."""
_CLONE_NEWNET = 0x40000000
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_HALF_BYTE = 256


class NotPermittedError(Exception):
    """Links cannot be made here; the message says why."""


class Links:
    """Namespaces and links, removed with the ``with`` block, which runs inside the hub."""

    def __init__(self, devices: int, *, megabits: int) -> None:
        self._name = f"ff{os.getpid()}"
        self._devices = devices
        self._megabits = megabits
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)

    def __enter__(self) -> Self:
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def device(self, number: int) -> tuple[str, ...]:
        """Return what stands before a command that runs behind a device's link."""
        return self._inside(f"device-{number}")

    @property
    def manager(self) -> tuple[str, ...]:
        """What stands before a command that runs behind the manager's link."""
        return self._inside("manager")

    def shape_manager(self, megabits: int) -> None:
        """Give the manager's link a rate, from now on."""
        self._shape("hub", "to-manager", megabits)
        self._shape("manager", "eth0", megabits)

    @staticmethod
    def sent_by_manager() -> int:
        """Return the bytes that came over the manager's link so far, headers included."""
        lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
        (line,) = (line for line in lines if line.strip().startswith("to-manager:"))
        return int(line.partition(":")[2].split()[0])

    def _make(self) -> None:
        if os.geteuid() != 0:
            raise NotPermittedError("only root may make network namespaces")
        for program in ("ip", "tc"):
            if shutil.which(program, path=_PATH) is None:
                raise NotPermittedError(f"the program {program} is not installed")
        self._add("hub")
        self._ip("hub", "link", "add", "bridge", "type", "bridge")
        self._ip("hub", "addr", "add", f"{HOST}/16", "dev", "bridge")
        for name in ("lo", "bridge"):
            self._ip("hub", "link", "set", name, "up")
        self._link("manager", "10.77.0.2")
        for number in range(self._devices):
            high, low = divmod(number, _HALF_BYTE)
            self._link(f"device-{number}", f"10.77.{high + 1}.{low}")
            self._shape("hub", f"to-device-{number}", self._megabits)
            self._shape(f"device-{number}", "eth0", self._megabits)
        with Path(f"/run/netns/{self._name}-hub").open() as hub:
            _enter(hub.fileno())

    def _remove(self) -> None:
        _enter(self._home)
        os.close(self._home)
        for path in Path("/run/netns").glob(f"{self._name}-*"):
            self._run("ip", "netns", "del", path.name)

    def _link(self, name: str, address: str) -> None:
        self._add(name)
        end = ("peer", "name", "eth0", "netns", f"{self._name}-{name}")
        self._ip("hub", "link", "add", f"to-{name}", "type", "veth", *end)
        self._ip("hub", "link", "set", f"to-{name}", "master", "bridge", "up")
        self._ip(name, "addr", "add", f"{address}/16", "dev", "eth0")
        self._ip(name, "link", "set", "eth0", "up")

    def _shape(self, name: str, interface: str, megabits: int) -> None:
        rate = ("rate", f"{megabits}mbit", "burst", "128kb", "latency", "100ms")
        where = ("-n", f"{self._name}-{name}", "qdisc", "replace", "dev", interface)
        self._run("tc", *where, "root", "tbf", *rate)

    def _add(self, name: str) -> None:
        self._run("ip", "netns", "add", f"{self._name}-{name}")

    def _ip(self, name: str, *words: str) -> None:
        self._run("ip", "-n", f"{self._name}-{name}", *words)

    def _run(self, *command: str) -> None:
        program = shutil.which(command[0], path=_PATH) or command[0]
        done = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise NotPermittedError(f"{' '.join(command)}: {done.stderr.strip()}")

    def _inside(self, name: str) -> tuple[str, ...]:
        program = shutil.which("ip", path=_PATH) or "ip"
        return program, "netns", "exec", f"{self._name}-{name}"


def _enter(namespace: int) -> None:
    """Move this thread, and whatever it starts, into a network namespace (setns(2))."""
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET) != 0:
        raise NotPermittedError(f"setns: {os.strerror(ctypes.get_errno())}")
