"""Which processor qemu plays, and the files in which Linux describes it to programs.

Libraries choose their kernels by what they read here (and by the auxiliary vector, which is
qemu's own). Under user emulation /proc/cpuinfo and /sys are this machine's: the files of an
x86 processor make a library that looks for an ARM one give up, or crash.

Rule 1: the files say what qemu says in the auxiliary vector for that processor, no more.
Rule 2: QEMU_CPU, qemu's own variable, chooses; what is not described here gets no files.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Processor:
    """A processor as ``/proc/cpuinfo`` describes it.

    Attributes:
        board: A board that has it.
        part: Its part number among ARM's.
        features: What Linux calls the bits of the auxiliary vector.

    """

    board: str
    part: str
    features: str

    def cpuinfo(self, count: int) -> str:
        """Return ``/proc/cpuinfo`` of so many of them."""
        one = (
            "BogoMIPS\t: 108.00\n"
            f"Features\t: {self.features}\n"
            "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x1\n"
            f"CPU part\t: {self.part}\nCPU revision\t: 0\n"
        )
        return "".join(f"processor\t: {number}\n{one}\n" for number in range(count))


_OLD: Final = "fp asimd aes pmull sha1 sha2 crc32"
PROCESSORS: Final = {
    "cortex-a76": Processor(
        board="Raspberry Pi 5",
        part="0xd0b",
        features=f"{_OLD} atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
    ),
    "cortex-a72": Processor(board="Raspberry Pi 4", part="0xd08", features=f"{_OLD} cpuid"),
}
DEFAULT: Final = "cortex-a76"


def describe(folder: Path) -> Path | None:
    """Write the files of the chosen processor into ``sys/`` and ``cpuinfo`` of a folder.

    Returns:
        The ``cpuinfo``, or None for a processor that is not described here.

    """
    chosen = PROCESSORS.get(os.environ.setdefault("QEMU_CPU", DEFAULT))
    if chosen is None:
        return None
    count = os.cpu_count() or 1
    place = folder / "sys/devices/system/cpu"
    place.mkdir(parents=True)
    for name in ("possible", "present", "online"):
        (place / name).write_text(f"0-{count - 1}\n" if count > 1 else "0\n")
    cpuinfo = folder / "cpuinfo"
    cpuinfo.write_text(chosen.cpuinfo(count))
    return cpuinfo
