"""Do the dependencies resolve to ready-made wheels wherever Fieldfare is supported?

For each set of extras, Python version and machine, uv resolves ``pyproject.toml`` with
source builds forbidden, as on a device without a compiler. The table is Markdown; the
exit status is 1 when a supported combination does not resolve.
"""

import itertools
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
MACHINES = ("x86_64", "aarch64")
EXTRAS = (
    ("onnx",),
    ("onnx", "litert"),
    ("onnx", "litert", "tflite"),
    ("onnx", "federated"),
    ("fleet",),
    ("demo",),
)
TOLD = ("onnxruntime", "ai-edge-litert", "tflite-runtime", "numpy", "flwr")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """The outcome for one combination; ``pins`` is empty where there is none."""

    extras: tuple[str, ...]
    python: str
    machine: str
    pins: dict[str, str]
    why: str

    def cells(self) -> tuple[str, ...]:
        """Return the row of the table."""
        told = ", ".join(f"{n} {self.pins[n]}" for n in TOLD if n in self.pins)
        return (
            f"`[{','.join(self.extras)}]`",
            self.python,
            f"{self.machine}, glibc {oldest_glibc(self.extras, self.machine).replace('_', '.')}",
            f"{len(self.pins)} packages: {told}" if self.pins else f"**no**: {self.why}",
        )


def oldest_glibc(extras: tuple[str, ...], machine: str) -> str:
    """Return the oldest C library that the wheels of these extras are built for."""
    return "2_34" if "tflite" in extras and machine == "aarch64" else "2_28"


def resolve(extras: tuple[str, ...], python: str, machine: str) -> Resolved:
    """Resolve one combination to wheels."""
    glibc = oldest_glibc(extras, machine)
    command = [str(ROOT / ".venv/bin/uv"), "pip", "compile", str(ROOT / "pyproject.toml")]
    command += ["--quiet", "--no-header", "--no-annotate", "--native-tls"]
    command += ["--only-binary", ":all:", "--python-version", python]
    command += ["--python-platform", f"{machine}-manylinux_{glibc}"]
    command += [word for extra in extras for word in ("--extra", extra)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    pins = dict(re.findall(r"^([a-z0-9-]+)==(\S+)$", run.stdout, re.MULTILINE))
    why = " ".join(run.stderr.split())[:300]
    return Resolved(
        extras=extras,
        python=python,
        machine=machine,
        pins=pins if run.returncode == 0 else {},
        why=why,
    )


def main() -> int:
    """Print the table."""
    print("| extras | Python | machine | resolves to |\n| --- | --- | --- | --- |")
    failed = 0
    for extras, python, machine in itertools.product(EXTRAS, PYTHONS, MACHINES):
        found = resolve(extras, python, machine)
        print("| " + " | ".join(found.cells()) + " |")
        failed += not found.pins
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
