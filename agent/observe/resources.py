"""What this machine is and how much of it is used; read from ``/proc`` and ``/sys``.

Rule 1: a figure that the kernel does not give is 0, never an exception: observing must
        not break what it observes.
Rule 2: only 64-bit Linux is supported, because there are no wheels for the rest.
"""

import os
import platform
import re
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.contract.limits import NAME
from agent.errors import PlatformError

GENERIC: Final = "generic-linux"
_BITS: Final = struct.calcsize("P") * 8
_MODELS: Final = (
    Path("proc/device-tree/model"),
    Path("sys/firmware/devicetree/base/model"),
)
CPU_FLAGS: Final = (
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme"),
    *("sse4_1", "avx", "f16c", "fma", "avx2", "avx_vnni"),
    *("avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16"),
)
"""What libraries choose their kernels by, as aarch64 and x86_64 kernels call it."""
_REVISION: Final = re.compile(r"\s+(rev|revision)\s+[\d.]+$", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a device says about itself in its inventory.

    Attributes:
        hardware: A name that release variants are matched with.
        arch: As the kernel calls it, for example ``aarch64``.
        system: Kernel name and release.
        python: Version of the interpreter.
        memory_bytes: Installed memory.
        cpus: Processors that this process may use.
        cpu_flags: Those of ``CPU_FLAGS`` that the first processor has.

    """

    hardware: str
    arch: str
    system: str
    python: str
    memory_bytes: int
    cpus: int
    cpu_flags: tuple[str, ...] = ()


def require_supported(
    bits: int = _BITS, system: str = sys.platform, arch: str = platform.machine()
) -> None:
    """Return on a machine that can run the agent.

    Raises:
        PlatformError: Not Linux, or not 64-bit.

    """
    if bits != 64:  # noqa: PLR2004 - an address
        raise PlatformError(
            f"this Python is {bits}-bit on {arch}; Fieldfare needs 64-bit Linux, "
            "because its runtimes have no 32-bit wheels: install a 64-bit system"
        )
    if system != "linux":
        raise PlatformError(f"this is {system}; fieldfare-agent runs on 64-bit Linux")


def describe_machine(hardware: str | None = None, root: Path = Path("/")) -> Machine:
    """Return what this machine is; ``hardware`` overrides what is detected."""
    uname = os.uname()
    return Machine(
        hardware=hardware or hardware_name(root),
        arch=uname.machine,
        system=f"{uname.sysname} {uname.release}",
        python=platform.python_version(),
        memory_bytes=memory_bytes(root),
        cpus=cpu_count(),
        cpu_flags=cpu_flags(root),
    )


def hardware_name(root: Path = Path("/")) -> str:
    """Return the board from its device tree as a name, else ``generic-linux``.

    ``Raspberry Pi 5 Model B Rev 1.0`` becomes ``raspberry-pi-5``.
    """
    for place in _MODELS:
        try:
            model = (root / place).read_bytes()[:200]
        except OSError:
            continue
        text = _REVISION.sub("", model.rstrip(b"\0").decode(errors="replace").strip())
        text = re.sub(r"^(Raspberry Pi \d+)\b.*", r"\1", text)
        name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:63].strip("-")
        if NAME.fullmatch(name):
            return name
    return GENERIC


def memory_bytes(root: Path = Path("/")) -> int:
    """Return the installed memory; 0 where it is not known."""
    return _kilobytes(root / "proc/meminfo", "MemTotal")


def rss_bytes(pid: int | None = None, root: Path = Path("/")) -> int:
    """Return the resident memory of a process, or of this one; 0 where it is not known."""
    return _kilobytes(root / "proc" / str(pid or "self") / "status", "VmRSS")


def pss_bytes(pid: int | None = None, root: Path = Path("/")) -> int:
    """Return resident memory with shared pages divided among their users; 0 if not known."""
    return _kilobytes(root / "proc" / str(pid or "self") / "smaps_rollup", "Pss")


def cpu_count() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))


def cpu_flags(root: Path = Path("/")) -> tuple[str, ...]:
    """Return those of ``CPU_FLAGS`` that the first processor has; none where it is not known."""
    try:
        text = (root / "proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return ()
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    had = set(line[1].split()) if line else set()
    return tuple(flag for flag in CPU_FLAGS if flag in had)


def _kilobytes(file: Path, field: str) -> int:
    try:
        text = file.read_text()
    except OSError:
        return 0
    match = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0
